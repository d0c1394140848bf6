//! One event as one line, in the shape of iptables-logger's records (cf-networking-release), so that what reads those
//! goes on reading. New is `data.prefix`, what Silk's kernel log line began with: `DENY_ORL_` tells a dry run apart.

use c2c_common::addr::to_ipv4;
use c2c_common::counter::Outcome;
use c2c_common::layout::Event;
use c2c_common::wire::{ICMP, TCP, UDP};
use serde::Serialize;
use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

/// What is known of a container; empty where it is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Garden's handle.
    pub handle: String,
    /// Its app's GUID.
    pub app: String,
    /// The GUID of the app's space.
    pub space: String,
    /// The GUID of the space's organization.
    pub organization: String,
}

/// The cell that tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Its name.
    pub name: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
}

#[derive(Serialize)]
struct Record<'a> {
    timestamp: String,
    source: &'static str,
    message: &'static str,
    log_level: u8,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    source: Source<'a>,
    packet: Packet,
    prefix: String,
}

#[derive(Serialize)]
struct Source<'a> {
    container_id: &'a str,
    app_guid: &'a str,
    space_guid: &'a str,
    organization_guid: &'a str,
    host_ip: Ipv4Addr,
    host_guid: &'a str,
}

#[derive(Serialize)]
struct Packet {
    direction: &'static str,
    allowed: bool,
    src_ip: Ipv4Addr,
    dst_ip: Ipv4Addr,
    src_port: u16,
    dst_port: u16,
    protocol: String,
    mark: &'static str,
    icmp_type: u8,
    icmp_code: u8,
}

/// lager's number of "info".
const INFO: u8 = 1;

/// The line of an event that came at this time, without its end.
pub(super) fn line(event: &Event, container: &Container, cell: &Cell, at: SystemTime) -> String {
    let (prefix, allowed) = judgement(event.outcome);
    let data = Data {
        source: source(container, cell),
        packet: packet(event, allowed),
        prefix: format!("{prefix}{}", container.handle),
    };
    let message =
        if allowed { "cfnetworking.iptables.egress-allowed" } else { "cfnetworking.iptables.egress-denied" };
    let timestamp = rfc3339(at);
    let record = Record { timestamp, source: "cfnetworking.iptables", message, log_level: INFO, data };
    // Numbers and strings cannot fail to be JSON.
    serde_json::to_string(&record).unwrap_or_default()
}

/// What Silk's log line would begin with, and whether iptables-logger calls such a line allowed. It calls a dry run's
/// denied, although the connection went on.
fn judgement(outcome: u8) -> (&'static str, bool) {
    let outcome = Outcome::from_raw(outcome);
    if matches!(outcome, Some(Outcome::RateWouldLimit | Outcome::RateLimited | Outcome::ConnectionsLimited)) {
        ("DENY_ORL_", false)
    } else if outcome.is_some_and(Outcome::is_delivery) {
        ("OK_", true)
    } else {
        ("DENY_", false)
    }
}

fn source<'a>(container: &'a Container, cell: &'a Cell) -> Source<'a> {
    Source {
        container_id: &container.handle,
        app_guid: &container.app,
        space_guid: &container.space,
        organization_guid: &container.organization,
        host_ip: cell.address,
        host_guid: &cell.name,
    }
}

fn packet(event: &Event, allowed: bool) -> Packet {
    let has_ports = matches!(event.protocol, TCP | UDP);
    let port = |port: u16| if has_ports { u16::from_be(port) } else { 0 };
    let [icmp_type, icmp_code] = if event.protocol == ICMP { event.icmp } else { [0; 2] };
    Packet {
        direction: "egress",
        allowed,
        src_ip: to_ipv4(event.source),
        dst_ip: to_ipv4(event.destination),
        src_port: port(event.source_port),
        dst_port: port(event.destination_port),
        protocol: protocol(event.protocol),
        mark: "0x0",
        icmp_type,
        icmp_code,
    }
}

/// As the kernel's log says it: by name, or as a number.
fn protocol(number: u8) -> String {
    match number {
        TCP => "TCP".to_owned(),
        UDP => "UDP".to_owned(),
        ICMP => "ICMP".to_owned(),
        other => other.to_string(),
    }
}

/// In UTC, with nanoseconds. A clock before 1970 shows 1970.
fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let nanos = since.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// The date of a day after 1970-01-01, by eras of 400 years that begin on the first of March (Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    const FROM_YEAR_0: u64 = 719_468;
    let days = days + FROM_YEAR_0;
    let (era, of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use c2c_common::addr::from_ipv4;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn event(protocol: u8, outcome: Outcome) -> Event {
        Event {
            source: from_ipv4([10, 255, 1, 2].into()),
            destination: from_ipv4([192, 0, 2, 7].into()),
            source_port: 33344u16.to_be(),
            destination_port: 443u16.to_be(),
            protocol,
            outcome: outcome as u8,
            icmp: [8, 0],
        }
    }

    fn text(event: &Event) -> String {
        let container = Container {
            handle: "handle".into(),
            app: "app".into(),
            space: "space".into(),
            organization: "org".into(),
        };
        let cell = Cell { name: "diego-cell-7".into(), address: [10, 0, 1, 5].into() };
        line(event, &container, &cell, UNIX_EPOCH + Duration::from_nanos(1_234_567_890_000_000_042))
    }

    fn read(event: &Event) -> Value {
        serde_json::from_str(&text(event)).unwrap()
    }

    #[test]
    fn an_allowed_connection_has_iptables_loggers_shape() {
        assert_eq!(
            text(&event(TCP, Outcome::ToOutside)),
            concat!(
                r#"{"timestamp":"2009-02-13T23:31:30.000000042Z","source":"cfnetworking.iptables","#,
                r#""message":"cfnetworking.iptables.egress-allowed","log_level":1,"data":{"source":{"#,
                r#""container_id":"handle","app_guid":"app","space_guid":"space","organization_guid":"org","#,
                r#""host_ip":"10.0.1.5","host_guid":"diego-cell-7"},"packet":{"direction":"egress","#,
                r#""allowed":true,"src_ip":"10.255.1.2","dst_ip":"192.0.2.7","src_port":33344,"dst_port":443,"#,
                r#""protocol":"TCP","mark":"0x0","icmp_type":0,"icmp_code":0},"prefix":"OK_handle"}}"#
            )
        );
    }

    #[test]
    fn a_dry_run_is_told_as_silk_tells_it() {
        let record = read(&event(TCP, Outcome::RateWouldLimit));
        assert_eq!(record["message"], "cfnetworking.iptables.egress-denied");
        assert_eq!(record["data"]["packet"]["allowed"], false);
        assert_eq!(record["data"]["prefix"], "DENY_ORL_handle");
        assert_eq!(read(&event(TCP, Outcome::EgressDenied))["data"]["prefix"], "DENY_handle");
        let unknown = Event { outcome: 255, ..event(TCP, Outcome::ToOutside) };
        assert_eq!(read(&unknown)["data"]["packet"]["allowed"], false);
    }

    #[test]
    fn each_protocol_has_its_own_fields() {
        let packet = |protocol| read(&event(protocol, Outcome::ToOutside))["data"]["packet"].take();
        let fields = |packet: &Value| {
            json!([packet["protocol"], packet["src_port"], packet["dst_port"], packet["icmp_type"]])
        };
        assert_eq!(fields(&packet(UDP)), json!(["UDP", 33344, 443, 0]));
        assert_eq!(fields(&packet(ICMP)), json!(["ICMP", 0, 0, 8]));
        assert_eq!(fields(&packet(47)), json!(["47", 0, 0, 0]));
    }

    #[test]
    fn names_cannot_break_out_of_their_line() {
        let container = Container { handle: "a\"\n,b".into(), ..Container::default() };
        let cell = Cell { name: "c".into(), address: Ipv4Addr::LOCALHOST };
        let line = line(&event(TCP, Outcome::ToOutside), &container, &cell, UNIX_EPOCH);
        let record: Value = serde_json::from_str(&line).unwrap();
        assert!(!line.contains('\n') && record["data"]["source"]["container_id"] == "a\"\n,b");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let table = [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (1_709_251_200, "2024-03-01T00:00:00.000000000Z"),
            (1_767_225_599, "2025-12-31T23:59:59.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
        ];
        for (seconds, want) in table {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), want);
        }
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), table[0].1);
    }
}
