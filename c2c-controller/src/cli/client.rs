//! The operator's connection to a controller.

use super::{Failure, output};
use c2c_proto::MAX_MESSAGE_BYTES;
use c2c_proto::tls::{self, Files, Identity, TlsError};
use c2c_proto::v1::operator_client::OperatorClient;
use clap::Args;
use std::path::PathBuf;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Where the controller is and who asks.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Connection {
    /// The controller's address
    #[arg(long, env = "C2C_CONTROLLER", value_name = "https://HOST:PORT")]
    controller: String,
    /// CA that signed the controller's certificate (PEM)
    #[arg(long, env = "C2C_CA", value_name = "FILE")]
    ca: PathBuf,
    /// The operator's certificate (PEM)
    #[arg(long, env = "C2C_CERTIFICATE", value_name = "FILE")]
    certificate: PathBuf,
    /// Its private key (PEM)
    #[arg(long, env = "C2C_KEY", value_name = "FILE")]
    key: PathBuf,
}

/// A client of the operator's service.
pub(super) type Client = OperatorClient<Channel>;

/// Makes one call to the controller.
pub(super) fn call<T>(
    connection: &Connection,
    call: impl AsyncFnOnce(Client) -> Result<tonic::Response<T>, Status>,
) -> Result<T, Failure> {
    let Connection { controller, ca, certificate, key } = connection.clone();
    let identity = Identity::load(&Files { ca, cert: certificate, key }).map_err(Failure::usage)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::refused)?;
    let reply = runtime.block_on(async {
        let channel = tls::channel(&controller, identity).map_err(Failure::usage)?;
        let client = OperatorClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        call(client).await.map_err(|status| failure(&controller, &status))
    });
    reply.map(tonic::Response::into_inner)
}

fn failure(controller: &str, status: &Status) -> Failure {
    if let Some(error) = tls::cause(status) {
        let line = output::chain(error);
        return match error {
            TlsError::Refused { .. } | TlsError::Untrusted { .. } => Failure::Refused(line),
            TlsError::Connect { .. } | TlsError::Deadline { .. } | TlsError::Handshake { .. } => {
                Failure::Unreachable(line)
            }
            TlsError::Read { .. }
            | TlsError::NotPem { .. }
            | TlsError::Expired { .. }
            | TlsError::NotYetValid { .. }
            | TlsError::ForeignCa { .. }
            | TlsError::KeyMismatch { .. }
            | TlsError::Unusable { .. }
            | TlsError::Address { .. } => Failure::Usage(line),
        };
    }
    let message = status.message();
    if status.code() == Code::InvalidArgument {
        Failure::Usage(message.to_owned())
    } else if status.code() == Code::Unavailable {
        Failure::Unreachable(format!("{controller}: {message}"))
    } else {
        Failure::Refused(message.to_owned())
    }
}
