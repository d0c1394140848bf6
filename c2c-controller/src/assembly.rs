//! Puts the parts of `serve` together, runs them until a signal or a failing store ends them, and takes them apart.

use crate::api::{self, AgentService, GroupsFrom, OperatorService, Terms};
use crate::auth::Verifier;
use crate::certificates::Certificates;
use crate::cloud::{self, Cloud, Importer};
use crate::config::{CloudConfig, Config, InternalConfig, RestConfig, StorePlace};
use crate::internal;
use crate::ledger::Ledger;
use crate::metrics::{self, Meters, Observer};
use crate::rest::{Access, Rest};
use crate::store::{PostgresStore, SledStore, Store, StoreError};
use crate::web;
use anyhow::{Context, bail};
use axum::{Router, middleware};
use c2c_proto::pages;
use c2c_proto::tls::{self, FileWatch, Identity, Role, ServerCertificate};
use c2c_proto::v1::fabric_server::FabricServer;
use c2c_proto::v1::operator_server::OperatorServer;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Server;

/// How often a silent connection is asked whether it is alive, and how long the answer may take: a cell that was cut off
/// stops being shown as connected after both.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// How long streams and calls may take to end. All that was acknowledged is on the disk already.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Runs the controller until it is told to stop.
///
/// # Errors
/// When it cannot start, or its store fails.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let identity = open_identity(&config)?;
    let ledger = Arc::new(Ledger::open(open_store(&config.store)?, config.rules)?);
    ledger.keep(api::now).context("cannot start the thread that follows the store")?;
    let cloud = config.cloud.as_ref().map(|settings| Cloud::new(&settings.settings)).transpose()?;
    let rest = match &config.rest {
        Some(settings) => {
            Some(open_rest(settings, &ledger, access(config.cloud.as_ref(), cloud.clone())).await?)
        }
        None => None,
    };
    let internal = match &config.internal {
        Some(settings) => Some(open_internal(settings, &ledger).await?),
        None => None,
    };
    let certificates = Certificates { identity, servers: certificates_of([&rest, &internal]) };
    let watch = FileWatch::new(certificates.files());
    // What changed between the first look and now is read here.
    certificates.identity.reload()?;
    let pages = pages::listen(config.metrics_address).await?;
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("listen: cannot listen on {}", config.listen))?;
    let address = listener.local_addr().context("listen: the socket has no address")?;
    tracing::info!(%address, metrics = %pages.local_addr()?, store = %ledger.store_id(), revision = %ledger.revision(), "listening");

    let (stop, stopping) = watch::channel(false);
    let observer = Observer {
        ledger: Arc::clone(&ledger),
        sessions: Arc::default(),
        certificates: certificates.clone(),
        meters: Meters::default(),
        stopping: stopping.clone(),
    };
    let rest = tokio::spawn(run_web(rest, observer.meters.clone(), stopping.clone()));
    let internal = tokio::spawn(run_web(internal, observer.meters.clone(), stopping.clone()));
    tokio::spawn(run_pages(pages, observer.clone()));
    tokio::spawn(certificates.clone().follow(watch));
    if let (Some(cloud), Some(settings)) = (cloud, &config.cloud) {
        follow_cloud(cloud, settings, &ledger, &stopping)?;
    }
    let groups = match config.cloud.as_ref().and_then(|cloud| cloud.import.as_ref()) {
        Some(_) => GroupsFrom::CloudController,
        None => GroupsFrom::Operators,
    };
    let server = tokio::spawn(run_server(listener, observer, terms(&config), groups));
    notify(&[NotifyState::Ready]);
    let ended = wait_for_end(&mut signals, &certificates, &ledger).await;
    notify(&[NotifyState::Stopping]);
    stop.send_replace(true);
    match tokio::time::timeout(STOP_DEADLINE, async { tokio::join!(server, rest, internal) }).await {
        Ok((server, rest, internal)) => {
            rest.context("the policy API was interrupted")?;
            internal.context("the API of Silk's cells was interrupted")?;
            server.context("the server was interrupted")??;
        }
        Err(_) => tracing::warn!("some connections did not end in time and are cut"),
    }
    ended
}

/// Whether the files that the configuration names can be used. Opens no store and listens nowhere.
///
/// # Errors
/// The first that cannot.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    open_identity(config)?;
    if let Some(rest) = &config.rest {
        ServerCertificate::load(&rest.certificate, &rest.key).context("rest_certificate")?;
        Verifier::new(rest.uaa.clone())?;
    }
    if let Some(InternalConfig { ca, certificate, key, .. }) = &config.internal {
        ServerCertificate::load_mutual(certificate, key, ca)
            .context("internal_certificate or internal_ca")?;
    }
    if let Some(cloud) = &config.cloud {
        Cloud::new(&cloud.settings)?;
        cloud.import.iter().try_for_each(|import| import.open().map(drop))?;
    }
    Ok(())
}

fn open_identity(config: &Config) -> anyhow::Result<Identity> {
    let identity = Identity::load(&config.files)?;
    if identity.own().role != Some(Role::Controller) {
        bail!(
            "certificate: {} does not have the role (organizationalUnitName) {}; expected a controller's certificate",
            config.files.cert.display(),
            Role::Controller
        );
    }
    Ok(identity)
}

/// Opens the store that is there, or makes one.
pub(crate) fn open_store(place: &StorePlace) -> Result<Box<dyn Store>, StoreError> {
    Ok(match place {
        StorePlace::Directory(path) => Box::new(SledStore::open(path)?),
        StorePlace::Postgres(url) => Box::new(PostgresStore::open(url)?),
    })
}

/// An HTTP API before anybody is let in.
struct OpenWeb {
    /// As logs and metrics have it.
    name: &'static str,
    listener: TcpListener,
    certificate: ServerCertificate,
    router: Router,
}

/// Starts what is done because of what Cloud Controller says, until we stop.
fn follow_cloud(
    cloud: Cloud,
    settings: &CloudConfig,
    ledger: &Arc<Ledger>,
    stopping: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    if let Some(import) = &settings.import {
        let importer = Importer::new(cloud.clone(), import, Arc::clone(ledger))?;
        tokio::spawn(importer.run(import.every, stopping.clone()));
    }
    tokio::spawn(cloud::run_cleaner(cloud, Arc::clone(ledger), settings.cleanup_every, stopping.clone()));
    Ok(())
}

/// Without Cloud Controller only administrators are let in, and they have no quota.
fn access(config: Option<&CloudConfig>, cloud: Option<Cloud>) -> Access {
    Access {
        cloud,
        self_service: config.is_some_and(|config| config.self_service),
        policies_per_source: config.map_or(0, |config| config.policies_per_source),
    }
}

async fn open_rest(settings: &RestConfig, ledger: &Arc<Ledger>, access: Access) -> anyhow::Result<OpenWeb> {
    let RestConfig { listen, certificate, key, origins, uaa } = settings.clone();
    let certificate = ServerCertificate::load(&certificate, &key).context("rest_certificate")?;
    let verifier = Verifier::new(uaa)?;
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("rest_listen: cannot listen on {listen}"))?;
    let address = listener.local_addr().context("rest_listen: the socket has no address")?;
    tracing::info!(%address, uaa = settings.uaa.uaa_url, "serving the external policy API");
    let router = Rest::new(Arc::clone(ledger), verifier, origins, access).router();
    Ok(OpenWeb { name: "rest", listener, certificate, router })
}

async fn open_internal(settings: &InternalConfig, ledger: &Arc<Ledger>) -> anyhow::Result<OpenWeb> {
    let InternalConfig { listen, ca, certificate, key } = settings;
    let certificate = ServerCertificate::load_mutual(certificate, key, ca)
        .context("internal_certificate or internal_ca")?;
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("internal_listen: cannot listen on {listen}"))?;
    let address = listener.local_addr().context("internal_listen: the socket has no address")?;
    tracing::info!(%address, "serving cells that run Silk");
    let router = internal::router(Arc::clone(ledger));
    Ok(OpenWeb { name: "internal", listener, certificate, router })
}

fn certificates_of(open: [&Option<OpenWeb>; 2]) -> Vec<(&'static str, ServerCertificate)> {
    open.into_iter().flatten().map(|web| (web.name, web.certificate.clone())).collect()
}

async fn run_web(open: Option<OpenWeb>, meters: Meters, stopping: watch::Receiver<bool>) {
    if let Some(OpenWeb { listener, certificate, router, .. }) = open {
        let counted = router.layer(middleware::from_fn_with_state(meters, metrics::count_request));
        web::run(listener, certificate, counted, stopping).await;
    }
}

/// They are there until the process ends: that we are about to is one of the things that they tell.
async fn run_pages(listener: TcpListener, observer: Observer) {
    if let Err(error) = pages::serve(listener, observer, std::future::pending()).await {
        tracing::error!(error = &error as &dyn std::error::Error, "the pages about the controller are gone");
    }
}

fn terms(config: &Config) -> Terms {
    Terms { vni: config.vni, udp_port: config.udp_port, heartbeat_seconds: config.heartbeat_seconds }
}

async fn run_server(
    listener: TcpListener,
    observer: Observer,
    terms: Terms,
    groups: GroupsFrom,
) -> Result<(), tonic::transport::Error> {
    let Observer { ledger, sessions, certificates, meters, mut stopping } = observer;
    let agents = AgentService::new(Arc::clone(&ledger), Arc::clone(&sessions), terms, stopping.clone());
    let (interval, timeout) = KEEPALIVE;
    let routes = Routes::new(FabricServer::new(agents))
        .add_service(OperatorServer::new(OperatorService::new(ledger, sessions, groups)));
    Server::builder()
        .http2_keepalive_interval(Some(interval))
        .http2_keepalive_timeout(Some(timeout))
        .add_routes(metrics::calls(routes, meters))
        .serve_with_incoming_shutdown(tls::incoming(listener, certificates.identity), async move {
            // An error means that nobody is left to tell us.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        })
        .await
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

async fn wait_for_end(
    signals: &mut Signals,
    certificates: &Certificates,
    ledger: &Ledger,
) -> anyhow::Result<()> {
    let mut failed = ledger.failed();
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hangup.recv() => reload(certificates),
            _ = failed.wait_for(|failed| *failed) => bail!("the store failed; see above, and start again when it is well"),
        }
    }
    tracing::info!("stopping");
    Ok(())
}

fn reload(certificates: &Certificates) {
    let now = NotifyState::monotonic_usec_now();
    notify(&[NotifyState::Reloading, now.unwrap_or(NotifyState::MonotonicUsec(0))]);
    certificates.reload();
    notify(&[NotifyState::Ready]);
}

/// Tells systemd, if it started us. That it cannot be told is no reason to end.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
