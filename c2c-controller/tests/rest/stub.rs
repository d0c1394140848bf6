//! An HTTPS server that answers as it is told, also as no server should.

use c2c_proto::tls::{Files, ServerCertificate};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Such as `GET /v3/apps?guids=a`.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// A parameter of the query, as it was before it was encoded.
    pub(crate) fn query(&self, key: &str) -> Option<String> {
        let (_, query) = self.line.split_once('?')?;
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find(|(known, _)| known == key).map(|(_, value)| value.into_owned())
    }

    /// A parameter that is a list with commas; all is in the list that is not there.
    pub(crate) fn lists(&self, key: &str, id: &str) -> bool {
        self.query(key).is_none_or(|list| list.split(',').any(|listed| listed == id))
    }
}

/// What is answered.
pub(crate) enum Answer {
    /// JSON with this status.
    Json(u16, String),
    /// These bytes, and then the end of the connection.
    Bytes(Vec<u8>),
}

/// Serves for as long as the runtime lives; gives its URL.
pub(crate) async fn serve(
    files: &Files,
    answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let certificate = ServerCertificate::load(&files.cert, &files.key).unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        loop {
            let (stream, remote) = listener.accept().await.unwrap();
            tokio::spawn(converse(certificate.clone(), stream, remote, Arc::clone(&answer)));
        }
    });
    url
}

async fn converse(
    certificate: ServerCertificate,
    stream: TcpStream,
    remote: SocketAddr,
    answer: Arc<impl Fn(&Asked) -> Answer>,
) {
    let Some(stream) = certificate.handshake(stream, remote).await else { return };
    let mut stream = BufReader::new(stream);
    while let Some(asked) = read(&mut stream).await {
        let (bytes, ends) = match answer(&asked) {
            Answer::Json(status, body) => (json(status, &body), false),
            Answer::Bytes(bytes) => (bytes, true),
        };
        // The client may be gone.
        if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() || ends {
            let _ = stream.shutdown().await;
            return;
        }
    }
}

async fn read(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        match stream.read_line(&mut line).await {
            Ok(0) | Err(_) => return None,
            Ok(_) if line == "\r\n" => break,
            Ok(_) => lines.push(line.trim_end().to_owned()),
        }
    }
    let headers = lines[1..].iter().map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    });
    let line = lines[0].trim_end_matches(" HTTP/1.1").to_owned();
    let mut asked = Asked { line, headers: headers.collect(), body: String::new() };
    let mut body = vec![0; asked.header("content-length").parse().unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    asked.body = String::from_utf8(body).unwrap();
    Some(asked)
}

fn json(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}
