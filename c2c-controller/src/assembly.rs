//! Puts the parts of `serve` together, runs them until a signal or a failing store ends them, and takes them apart.

use crate::api::{self, AgentService, GroupsFrom, OperatorService, Terms};
use crate::auth::Verifier;
use crate::cloud::{self, Cloud, Importer};
use crate::config::{CloudConfig, Config, RestConfig, StorePlace};
use crate::ledger::Ledger;
use crate::rest::{self, Access, Rest};
use crate::store::{PostgresStore, SledStore, Store, StoreError};
use crate::watch::Sessions;
use anyhow::{Context, bail};
use c2c_proto::tls::{self, Identity, Role, ServerCertificate, TlsError};
use c2c_proto::v1::fabric_server::FabricServer;
use c2c_proto::v1::operator_server::OperatorServer;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
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
    let identity = Identity::load(&config.files)?;
    if identity.own().role != Some(Role::Controller) {
        bail!(
            "certificate: {} does not have the role (organizationalUnitName) {}; expected a controller's certificate",
            config.files.cert.display(),
            Role::Controller
        );
    }
    let ledger = Arc::new(Ledger::open(open_store(&config.store)?, config.rules)?);
    ledger.keep(api::now).context("cannot start the thread that follows the store")?;
    let cloud = config.cloud.as_ref().map(|settings| Cloud::new(&settings.settings)).transpose()?;
    let rest = match &config.rest {
        Some(settings) => {
            Some(open_rest(settings, &ledger, access(config.cloud.as_ref(), cloud.clone())).await?)
        }
        None => None,
    };
    let certificates = Certificates { identity, rest: rest.as_ref().map(|rest| rest.certificate.clone()) };
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("listen: cannot listen on {}", config.listen))?;
    let address = listener.local_addr().context("listen: the socket has no address")?;
    tracing::info!(%address, store = %ledger.store_id(), revision = %ledger.revision(), "listening");

    let (stop, stopping) = watch::channel(false);
    let rest = tokio::spawn(run_rest(rest, stopping.clone()));
    if let (Some(cloud), Some(settings)) = (cloud, &config.cloud) {
        follow_cloud(cloud, settings, &ledger, &stopping)?;
    }
    let identity = certificates.identity.clone();
    let groups = match config.cloud.as_ref().and_then(|cloud| cloud.import.as_ref()) {
        Some(_) => GroupsFrom::CloudController,
        None => GroupsFrom::Operators,
    };
    let server =
        tokio::spawn(run_server(listener, identity, Arc::clone(&ledger), terms(&config), groups, stopping));
    notify(&[NotifyState::Ready]);
    let ended = wait_for_end(&mut signals, &certificates, &ledger).await;
    notify(&[NotifyState::Stopping]);
    stop.send_replace(true);
    match tokio::time::timeout(STOP_DEADLINE, async { tokio::join!(server, rest) }).await {
        Ok((server, rest)) => {
            rest.context("the policy API was interrupted")?;
            server.context("the server was interrupted")??;
        }
        Err(_) => tracing::warn!("some connections did not end in time and are cut"),
    }
    ended
}

/// Opens the store that is there, or makes one.
pub(crate) fn open_store(place: &StorePlace) -> Result<Box<dyn Store>, StoreError> {
    Ok(match place {
        StorePlace::Directory(path) => Box::new(SledStore::open(path)?),
        StorePlace::Postgres(url) => Box::new(PostgresStore::open(url)?),
    })
}

/// The external policy API before anybody is let in.
struct OpenRest {
    listener: TcpListener,
    certificate: ServerCertificate,
    rest: Rest,
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

async fn open_rest(settings: &RestConfig, ledger: &Arc<Ledger>, access: Access) -> anyhow::Result<OpenRest> {
    let RestConfig { listen, certificate, key, origins, uaa } = settings.clone();
    let certificate = ServerCertificate::load(&certificate, &key).context("rest_certificate")?;
    let verifier = Verifier::new(uaa)?;
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("rest_listen: cannot listen on {listen}"))?;
    let address = listener.local_addr().context("rest_listen: the socket has no address")?;
    tracing::info!(%address, uaa = settings.uaa.uaa_url, "serving the external policy API");
    Ok(OpenRest { listener, certificate, rest: Rest::new(Arc::clone(ledger), verifier, origins, access) })
}

async fn run_rest(open: Option<OpenRest>, stopping: watch::Receiver<bool>) {
    if let Some(OpenRest { listener, certificate, rest }) = open {
        rest::run(listener, certificate, rest.router(), stopping).await;
    }
}

fn terms(config: &Config) -> Terms {
    Terms { vni: config.vni, udp_port: config.udp_port, heartbeat_seconds: config.heartbeat_seconds }
}

async fn run_server(
    listener: TcpListener,
    identity: Identity,
    ledger: Arc<Ledger>,
    terms: Terms,
    groups: GroupsFrom,
    stopping: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let sessions = Arc::new(Sessions::default());
    let agents = AgentService::new(Arc::clone(&ledger), Arc::clone(&sessions), terms, stopping.clone());
    let (interval, timeout) = KEEPALIVE;
    let mut stopping = stopping;
    Server::builder()
        .http2_keepalive_interval(Some(interval))
        .http2_keepalive_timeout(Some(timeout))
        .add_service(FabricServer::new(agents))
        .add_service(OperatorServer::new(OperatorService::new(ledger, sessions, groups)))
        .serve_with_incoming_shutdown(tls::incoming(listener, identity), async move {
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

/// What is read again when we are told to.
struct Certificates {
    identity: Identity,
    rest: Option<ServerCertificate>,
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
    report_reload("the controller", certificates.identity.reload());
    if let Some(rest) = &certificates.rest {
        report_reload("the policy API", rest.reload());
    }
    notify(&[NotifyState::Ready]);
}

fn report_reload(whose: &str, reloaded: Result<(), TlsError>) {
    match reloaded {
        Ok(()) => tracing::info!(whose, "certificates were read again"),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, whose, "the certificates cannot be used; those read before stay in use");
        }
    }
}

/// Tells systemd, if it started us. That it cannot be told is no reason to end.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
