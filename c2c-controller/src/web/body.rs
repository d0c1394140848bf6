//! Bodies of requests, and work that blocks.

use axum::body::{Body, Bytes, HttpBody};
use std::time::Duration;

/// How long a body may take to arrive: at the longest that is taken anywhere, 10 MiB, it is 350 KiB/s.
const DEADLINE: Duration = Duration::from_secs(30);

/// The whole body, if it comes in time and is not too long.
pub(crate) async fn read(body: Body, max_bytes: usize) -> Option<Bytes> {
    let announced = body.size_hint().lower();
    if !usize::try_from(announced).is_ok_and(|announced| announced <= max_bytes) {
        return None;
    }
    tokio::time::timeout(DEADLINE, axum::body::to_bytes(body, max_bytes)).await.ok()?.ok()
}

/// Does what takes long, or waits for a disk, away from the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    tokio::task::spawn_blocking(work).await
}
