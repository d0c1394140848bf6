//! A backup of the running controller, in pieces, as fast as the operator takes them.

use super::OperatorService;
use crate::api::{caller, now};
use crate::backup::{self, Header};
use crate::ledger::Ledger;
use c2c_proto::tls::Role;
use c2c_proto::v1;
use std::io::{self, BufWriter, Write};
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Of a piece. Far below what a message may have, and large enough that messages are few.
const CHUNK_BYTES: usize = 64 << 10;
/// How many pieces may wait for the operator.
const CHUNKS_WAITING: usize = 4;

/// The pieces of a backup.
pub(super) type Chunks = ReceiverStream<Result<v1::BackupChunk, Status>>;

impl OperatorService {
    pub(super) async fn back_up(
        &self,
        request: &Request<v1::BackupRequest>,
    ) -> Result<Response<Chunks>, Status> {
        let peer = caller(request, Role::Operator).map_err(|status| *status)?;
        let (ledger, operator) = (self.ledger.clone(), peer.name.clone());
        self.refresh(Ledger::refresh_leases).await?;
        let (chunks, taken) = channel(CHUNKS_WAITING);
        tokio::task::spawn_blocking(move || {
            let parts = ledger.parts();
            let header = Header::new(&ledger.store_id(), now().wall, &parts);
            let mut out = BufWriter::with_capacity(CHUNK_BYTES, Chunked(chunks));
            match backup::write(&mut out, &header, &parts) {
                Ok(()) => tracing::info!(operator, revision = header.revision, "backed up"),
                Err(error) => tracing::warn!(operator, %error, "a backup was not taken to its end"),
            }
        });
        Ok(Response::new(ReceiverStream::new(taken)))
    }
}

/// Each write is a piece.
struct Chunked(Sender<Result<v1::BackupChunk, Status>>);

impl Write for Chunked {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let chunk = v1::BackupChunk { data: data.to_vec() };
        let sent = self.0.blocking_send(Ok(chunk));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the operator hung up"))?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
