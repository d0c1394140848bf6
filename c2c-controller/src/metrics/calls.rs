//! Counts gRPC calls by method and code. The code comes with the last of an answer, which for a stream is hours after the
//! first: so a call is counted when its answer ends.

use super::Meters;
use super::meters::Call as Labels;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::{self, Next};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::Code;
use tonic::service::Routes;

/// The header or trailer that says how a call went (the gRPC protocol over HTTP/2, "Responses").
const GRPC_STATUS: &str = "grpc-status";

/// Services whose calls are counted.
pub fn calls(routes: Routes, meters: Meters) -> Routes {
    routes.prepare().into_axum_router().layer(middleware::from_fn_with_state(meters, count_call)).into()
}

/// A layer that counts.
pub async fn count_call(State(meters): State<Meters>, request: Request, next: Next) -> Response {
    let method = request.uri().path().trim_start_matches('/').to_owned();
    let mut call = Call { meters, method, ended: false };
    let (parts, body) = next.run(request).await.into_parts();
    // A refusal is a header alone and has no body.
    if let Some(code) = code(&parts.headers) {
        call.end(code);
    }
    Response::from_parts(parts, Body::new(Answer { body, call }))
}

/// An answer on its way.
struct Answer {
    body: Body,
    call: Call,
}

/// A call that is counted once: when it ends, or when nobody wants its answer any more.
struct Call {
    meters: Meters,
    method: String,
    ended: bool,
}

impl Call {
    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        // Else whoever asks for what there is not would make series.
        let method = if code == Code::Unimplemented { "none" } else { &self.method }.to_owned();
        self.meters.calls.get_or_create(&Labels { method, code: format!("{code:?}") }).inc();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(code) = frame.trailers_ref().and_then(code)
        {
            self.call.end(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}
