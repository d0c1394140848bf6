//! Mutual TLS on loopback: who gets in, who does not, and what each side is told.

use crate::harness::{PATIENCE, issue, request, within};
use c2c_controller::pki::{self, Request};
use c2c_proto::tls::{self, Files, Identity, Peer, Role, TlsError};
use c2c_proto::v1::ListLeasesRequest;
use c2c_proto::v1::operator_client::OperatorClient;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Code, Status};

fn authority() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    pki::init(&directory.path().join("pki"), SystemTime::now()).unwrap();
    directory
}

fn local(role: Role, name: &str) -> Request {
    Request { addresses: vec![crate::harness::LOOPBACK.into()], ..request(role, name) }
}

/// A gRPC server without services: whoever gets through TLS is told "unimplemented".
async fn serve(identity: Identity) -> SocketAddr {
    let listener = TcpListener::bind((crate::harness::LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tls::incoming(listener, identity);
    tokio::spawn(Server::builder().add_routes(Routes::default()).serve_with_incoming(incoming));
    address
}

async fn call(host: &str, port: u16, identity: &Identity) -> Status {
    let channel = tls::channel(&format!("https://{host}:{port}"), identity.clone()).unwrap();
    within(OperatorClient::new(channel).list_leases(ListLeasesRequest {})).await.unwrap_err()
}

/// Nothing when the call got through, else what the caller would print.
async fn refusal(address: SocketAddr, identity: &Identity) -> Option<String> {
    let status = call(&address.ip().to_string(), address.port(), identity).await;
    match tls::cause(&status) {
        Some(error) => Some(chain(error)),
        None => {
            assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
            None
        }
    }
}

fn chain(error: &TlsError) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

fn load_error(files: &Files) -> String {
    chain(&Identity::load(files).unwrap_err())
}

#[tokio::test]
async fn certificates_of_one_ca_meet() {
    let ca = authority();
    let address =
        serve(Identity::load(&issue(ca.path(), &local(Role::Controller, "controller"))).unwrap()).await;
    let client = Identity::load(&issue(ca.path(), &request(Role::Operator, "admin"))).unwrap();
    assert_eq!(refusal(address, &client).await, None);
}

#[test]
fn a_certificate_says_who_its_owner_is() {
    let ca = authority();
    let addresses = vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
    let dns_names = vec!["cell-7.example.org".to_owned()];
    let request = Request { addresses: addresses.clone(), dns_names, ..request(Role::Cell, "cell-7") };
    let Peer { role, name, addresses: read, .. } = Identity::load(&issue(ca.path(), &request)).unwrap().own();
    assert_eq!((role, name.as_str(), read), (Some(Role::Cell), "cell-7", addresses));
    assert_eq!(Peer::from_certificate(&CertificateDer::from(vec![1, 2, 3])), None);
}

#[test]
fn files_that_cannot_be_used_are_named_with_what_is_wrong() {
    let ca = authority();
    let good = issue(ca.path(), &local(Role::Operator, "good"));
    let other = issue(ca.path(), &local(Role::Operator, "other"));
    let foreign = issue(authority().path(), &local(Role::Operator, "foreign"));
    let kept = authority();
    let foreign_ca = kept.path().join("pki/ca.crt");
    drop(foreign);
    let now = SystemTime::now();
    let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86_400));
    let dated = |name, not_before, not_after| {
        issue(ca.path(), &Request { not_before, not_after, ..local(Role::Operator, name) })
    };
    let expired = dated("expired", now - day, now - hour);
    let early = dated("early", now + hour, now + day);
    let text = ca.path().join("text");
    std::fs::write(&text, "not PEM at all\n").unwrap();
    let none = ca.path().join("none");
    let show = |path: &std::path::Path| path.display().to_string();
    let cases = [
        (
            Files { ca: none.clone(), ..good.clone() },
            format!("cannot read the CA certificate {}: No such file", show(&none)),
        ),
        (
            Files { cert: none.clone(), ..good.clone() },
            format!("cannot read the certificate {}: No such", show(&none)),
        ),
        (
            Files { key: none.clone(), ..good.clone() },
            format!("cannot read the private key {}: No such", show(&none)),
        ),
        (
            Files { ca: text.clone(), ..good.clone() },
            format!("{} holds no CA certificate in PEM form", show(&text)),
        ),
        (
            Files { cert: text.clone(), ..good.clone() },
            format!("{} holds no certificate in PEM form", show(&text)),
        ),
        (
            Files { key: text.clone(), ..good.clone() },
            format!("{} holds no private key in PEM form", show(&text)),
        ),
        (Files { key: good.cert.clone(), ..good.clone() }, "holds no private key in PEM form".to_owned()),
        (expired.clone(), format!("the certificate {} expired at ", show(&expired.cert))),
        (early.clone(), format!("the certificate {} is not valid before ", show(&early.cert))),
        (
            Files { key: other.key.clone(), ..good.clone() },
            format!(
                "the private key {} does not match the certificate {}",
                show(&other.key),
                show(&good.cert)
            ),
        ),
        (
            Files { ca: foreign_ca.clone(), ..good.clone() },
            format!("the certificate {} was not signed by the CA in {}", show(&good.cert), show(&foreign_ca)),
        ),
    ];
    for (files, message) in cases {
        let error = load_error(&files);
        assert!(error.starts_with(&message) || error.ends_with(&message), "expected {message}, got {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[tokio::test]
async fn a_client_of_another_ca_is_told_so() {
    let (ours, theirs) = (authority(), authority());
    let address =
        serve(Identity::load(&issue(ours.path(), &local(Role::Controller, "controller"))).unwrap()).await;
    let foreign = issue(theirs.path(), &local(Role::Operator, "admin"));
    let error = refusal(address, &Identity::load(&foreign).unwrap()).await.unwrap();
    let expected =
        format!("the certificate of {address} cannot be trusted: it was signed by another CA than ours");
    assert_eq!(error, expected);
    // One that trusts the server, and is not trusted there.
    let both =
        [ours.path(), theirs.path()].map(|path| std::fs::read_to_string(path.join("pki/ca.crt")).unwrap());
    let ca = theirs.path().join("both.crt");
    std::fs::write(&ca, both.concat()).unwrap();
    let error = refusal(address, &Identity::load(&Files { ca, ..foreign.clone() }).unwrap()).await.unwrap();
    let expected =
        format!("{address} refused our certificate {}: it was signed by another CA", foreign.cert.display());
    assert_eq!(error, expected);
}

#[tokio::test]
async fn a_certificate_that_expires_meanwhile_is_refused_with_that_reason() {
    let ca = authority();
    let soon = SystemTime::now() + Duration::from_secs(2);
    let short = |role, name| Request { not_after: soon, ..local(role, name) };
    let brief_server = Identity::load(&issue(ca.path(), &short(Role::Controller, "brief"))).unwrap();
    let brief_client = Identity::load(&issue(ca.path(), &short(Role::Operator, "admin"))).unwrap();
    let server =
        serve(Identity::load(&issue(ca.path(), &local(Role::Controller, "controller"))).unwrap()).await;
    let expiring_server = serve(brief_server).await;
    let client = Identity::load(&issue(ca.path(), &local(Role::Operator, "lasting"))).unwrap();
    let refused = eventually(server, &brief_client).await;
    assert!(
        refused.contains("refused our certificate") && refused.ends_with("not valid yet by the clock there"),
        "{refused}"
    );
    let untrusted = eventually(expiring_server, &client).await;
    assert!(untrusted.ends_with("cannot be trusted: it has expired"), "{untrusted}");
}

async fn eventually(address: SocketAddr, identity: &Identity) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(refusal) = refusal(address, identity).await {
            return refusal;
        }
        assert!(Instant::now() < deadline, "a certificate that has expired is still accepted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_server_must_be_the_controller_that_was_asked_for() {
    let ca = authority();
    let client = Identity::load(&issue(ca.path(), &request(Role::Operator, "admin"))).unwrap();
    let cell = serve(Identity::load(&issue(ca.path(), &local(Role::Cell, "cell"))).unwrap()).await;
    let error = refusal(cell, &client).await.unwrap();
    assert!(error.contains("cannot be trusted: it was issued for another role"), "{error}");
    let elsewhere =
        Request { addresses: vec!["192.0.2.9".parse().unwrap()], ..request(Role::Controller, "elsewhere") };
    let elsewhere = serve(Identity::load(&issue(ca.path(), &elsewhere)).unwrap()).await;
    let error = refusal(elsewhere, &client).await.unwrap();
    assert!(error.ends_with("cannot be trusted: it was issued for another name or address"), "{error}");
    let nobody = serve(Identity::load(&server_without_role(ca.path())).unwrap()).await;
    let error = refusal(nobody, &client).await.unwrap();
    assert!(error.ends_with("its role (organizationalUnitName) is not c2c-controller"), "{error}");
}

/// A server's certificate, as another program of the same CA might have one.
fn server_without_role(directory: &std::path::Path) -> Files {
    let pki = directory.join("pki");
    let read = |name: &str| std::fs::read_to_string(pki.join(name)).unwrap();
    let ca_key = rcgen::KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.crt"), ca_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let files = Files { ca: pki.join("ca.crt"), cert: pki.join("web.crt"), key: pki.join("web.key") };
    std::fs::write(&files.cert, made.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    files
}

/// A client made by hand, without a certificate.
async fn bare_handshake(
    address: SocketAddr,
    ca: &std::path::Path,
    version: &'static SupportedProtocolVersion,
) -> std::io::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::IpAddress(address.ip().into());
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, TcpStream::connect(address).await.unwrap()).await?;
    let mut first = [0];
    match within(stream.read(&mut first)).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn without_a_certificate_or_with_an_older_tls_nobody_gets_in() {
    let ca = authority();
    let controller = issue(ca.path(), &local(Role::Controller, "controller"));
    let address = serve(Identity::load(&controller).unwrap()).await;
    let error = bare_handshake(address, &controller.ca, &rustls::version::TLS13).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    let error = bare_handshake(address, &controller.ca, &rustls::version::TLS12).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}

#[tokio::test]
async fn garbage_and_silence_on_the_listener_hurt_nobody() {
    let ca = authority();
    let address =
        serve(Identity::load(&issue(ca.path(), &local(Role::Controller, "controller"))).unwrap()).await;
    let client = Identity::load(&issue(ca.path(), &request(Role::Operator, "admin"))).unwrap();
    let mut silent = Vec::new();
    for n in 0..40_u8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may have closed it already.
        let _ = stream.write_all(&[n, 22, 3, 1, 255, 255, n]).await;
        let _ = stream.write_all(&vec![n; 4096]).await;
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(refusal(address, &client).await, None);
}

#[tokio::test]
async fn rotated_certificates_are_used_from_the_next_handshake_on() {
    let (old, new) = (authority(), authority());
    let server_files = issue(old.path(), &local(Role::Controller, "controller"));
    let server = Identity::load(&server_files).unwrap();
    let address = serve(server.clone()).await;
    let old_client = Identity::load(&issue(old.path(), &request(Role::Operator, "admin"))).unwrap();
    let new_client = Identity::load(&issue(new.path(), &request(Role::Operator, "admin"))).unwrap();
    let channel = tls::channel(&format!("https://{address}"), old_client.clone()).unwrap();
    let mut open = OperatorClient::new(channel);
    assert_eq!(within(open.list_leases(ListLeasesRequest {})).await.unwrap_err().code(), Code::Unimplemented);
    assert!(refusal(address, &new_client).await.is_some());

    // Half of a rotation is refused, and the old certificates stay in use.
    let rotated = issue(new.path(), &local(Role::Controller, "controller"));
    std::fs::copy(&rotated.cert, &server_files.cert).unwrap();
    let error = server.reload().unwrap_err().to_string();
    assert!(error.contains("does not match the certificate"), "{error}");
    assert_eq!(refusal(address, &old_client).await, None);

    std::fs::copy(&rotated.key, &server_files.key).unwrap();
    std::fs::copy(&rotated.ca, &server_files.ca).unwrap();
    server.reload().unwrap();
    assert_eq!(refusal(address, &new_client).await, None);
    assert!(refusal(address, &old_client).await.is_some());
    assert_eq!(within(open.list_leases(ListLeasesRequest {})).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn who_is_not_there_or_speaks_something_else_is_named() {
    let ca = authority();
    let client = Identity::load(&issue(ca.path(), &request(Role::Operator, "admin"))).unwrap();
    let closed = TcpListener::bind((crate::harness::LOOPBACK, 0)).await.unwrap().local_addr().unwrap();
    let error = refusal(closed, &client).await.unwrap();
    assert!(error.starts_with(&format!("cannot reach {closed}: Connection refused")), "{error}");

    let listener = TcpListener::bind((crate::harness::LOOPBACK, 0)).await.unwrap();
    let web = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let error = refusal(web, &client).await.unwrap();
    assert!(error.starts_with(&format!("no TLS 1.3 connection with {web}: ")), "{error}");
}

#[test]
fn an_address_that_is_none_is_refused_at_once() {
    let ca = authority();
    let client = Identity::load(&issue(ca.path(), &request(Role::Operator, "admin"))).unwrap();
    for address in
        ["", "host:1", "http://host:1", "https://host", "https://host:1/path", "https://:1", "https://[::1]"]
    {
        let error = tls::channel(address, client.clone()).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("`{address}` is not the address of a controller: expected https://HOST:PORT")
        );
    }
}
