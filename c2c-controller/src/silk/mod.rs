//! silk-controller's API, as silk-daemon and silk-teardown speak it: `/leases` and what is below. Its texts and status codes
//! are theirs; what is leased to whom is decided as for our own cells. Who calls has a certificate of Silk's CA, which says
//! no more than that: any of its clients may speak for any cell, as it may to Silk's own controller. `internal` serves it.

mod failure;
mod wire;

use crate::api::now;
use crate::domain::{Command, Lease, LeaseSize, hardware_address};
use crate::ledger::{Ledger, LedgerError};
use crate::web;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, put};
use failure::Failure;
use serde::de::DeserializeOwned;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Far more than the longest request: a lease.
const BODY_MAX_BYTES: usize = 16 << 10;

/// The routes.
pub(crate) fn router(ledger: Arc<Ledger>) -> Router {
    Router::new()
        .route("/leases", get(list))
        .route("/leases/acquire", put(acquire))
        .route("/leases/renew", put(renew))
        .route("/leases/release", put(release))
        .with_state(ledger)
}

/// The leases of cells that live.
async fn list(State(ledger): State<Arc<Ledger>>) -> Result<Response, Failure> {
    let leases = web::blocking(move || live(&ledger)).await.map_err(|_| Failure::Interrupted)??;
    Ok(web::json(&wire::Leases { leases: leases.iter().map(Into::into).collect() }))
}

/// Those that any controller gave. Before one is left out, others are asked whether they heard of its cell.
fn live(ledger: &Ledger) -> Result<Vec<Lease>, Failure> {
    ledger.refresh(now())?;
    let mut leases = ledger.leases_by_age(now());
    if leases.iter().any(|(_, expired)| *expired) {
        ledger.refresh_leases(now())?;
        leases = ledger.leases_by_age(now());
    }
    Ok(leases.into_iter().filter_map(|(lease, expired)| (!expired).then_some(lease)).collect())
}

async fn acquire(State(ledger): State<Arc<Ledger>>, body: Body) -> Result<Response, Failure> {
    let wire::Acquire { underlay_ip, single_overlay_ip } = read(body).await?;
    let underlay: Ipv4Addr = underlay_ip.parse().map_err(|_| Failure::Address(underlay_ip))?;
    let size = if single_overlay_ip { LeaseSize::Single } else { LeaseSize::Block };
    let command = Command::SilkAcquire { underlay, size, pick: rand::random() };
    let lease = execute(ledger, command, underlay).await?.ok_or(Failure::TakenAway)?;
    Ok(web::json(&wire::Lease::from(&lease)))
}

async fn renew(State(ledger): State<Arc<Ledger>>, body: Body) -> Result<Response, Failure> {
    let wire::Lease { underlay_ip, overlay_subnet, overlay_hardware_addr } = read(body).await?;
    let underlay = underlay_ip.parse().map_err(|_| Failure::renewal(&Failure::Address(underlay_ip)))?;
    let not_a_subnet = || Failure::Renewal(format!("invalid CIDR address: {overlay_subnet}"));
    let held: ipnet::Ipv4Net = overlay_subnet.parse().map_err(|_| not_a_subnet())?;
    // Cells reckon it from the subnet, so another one would reach nobody.
    if !overlay_hardware_addr.eq_ignore_ascii_case(&hardware_address(held)) {
        return Err(Failure::mismatch());
    }
    // The lease is as the cell says nearly every time, and then nothing is written or asked.
    if ledger.lease_at(underlay).is_some_and(|lease| lease.block == held) {
        ledger.renew(underlay, now());
    } else {
        execute(ledger, Command::SilkRenew { underlay, held }, underlay).await?;
    }
    Ok(nothing())
}

async fn release(State(ledger): State<Arc<Ledger>>, body: Body) -> Result<Response, Failure> {
    let wire::Release { underlay_ip } = read(body).await?;
    // What is no address holds no lease.
    if let Ok(underlay) = underlay_ip.parse() {
        execute(ledger, Command::Release { underlay }, underlay).await?;
    }
    Ok(nothing())
}

fn nothing() -> Response {
    web::of_bytes(b"{}".to_vec())
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Failure> {
    let body: Bytes = web::read(body, BODY_MAX_BYTES).await.ok_or(Failure::Read)?;
    serde_json::from_slice(&body).map_err(Failure::Json)
}

/// Does a command, and gives the lease that the address has then.
async fn execute(
    ledger: Arc<Ledger>,
    command: Command,
    underlay: Ipv4Addr,
) -> Result<Option<Lease>, Failure> {
    let execute = move || {
        let done = ledger.execute(&command, now())?;
        let renews = matches!(command, Command::SilkAcquire { .. } | Command::SilkRenew { .. });
        let lease = ledger.lease_at(underlay);
        if renews && lease.is_some() {
            ledger.renew(underlay, now());
        }
        if done.commit.is_some() {
            tracing::info!(%underlay, block = lease.as_ref().map(|lease| lease.block.to_string()),
                revision = %done.revision, "a cell that runs Silk changed its lease");
        }
        Ok::<_, LedgerError>(lease)
    };
    Ok(web::blocking(execute).await.map_err(|_| Failure::Interrupted)??)
}
