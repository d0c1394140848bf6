//! Which database it is, as an operator writes it. Connections are not encrypted, so one that leaves the machine has to be
//! asked for in so many words.

use postgres::Config;
use postgres::config::{Host, SslMode};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long one host of the database may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long data may stay unanswered by the other end's system before the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(10);

/// A database that may be used. Does not show its password.
#[derive(Clone)]
pub struct PostgresUrl {
    config: Box<Config>,
}

/// A text that names no database that may be used. Does not repeat it: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a database that can be used")]
pub struct NotUsable;

impl FromStr for PostgresUrl {
    type Err = NotUsable;

    fn from_str(text: &str) -> Result<Self, NotUsable> {
        let is_url = ["postgresql://", "postgres://"].iter().any(|scheme| text.starts_with(scheme));
        let mut config: Config = text.parse().map_err(|_| NotUsable)?;
        let mode = config.get_ssl_mode();
        let local = config.get_hosts().iter().all(is_local);
        let unencrypted = mode == SslMode::Disable || mode == SslMode::Prefer && local;
        if !is_url || !unencrypted || config.get_hosts().is_empty() || config.get_user().is_none() {
            return Err(NotUsable);
        }
        config.ssl_mode(SslMode::Disable);
        config.connect_timeout(CONNECT_TIMEOUT).tcp_user_timeout(SILENCE).keepalives_idle(SILENCE);
        config.application_name("c2c-controller");
        Ok(Self { config: Box::new(config) })
    }
}

impl PostgresUrl {
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.config.get_hosts().iter().map(host).collect();
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        write!(f, "postgresql://{}/{database}", hosts.join(","))
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn host(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    }
}

/// A connection to this host does not leave the machine.
fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_machine_is_to_be_asked_for() {
        let local = ["127.0.0.1", "localhost", "[::1]", "%2Frun%2Fpostgresql"];
        for host in local {
            assert!(PostgresUrl::from_str(&format!("postgresql://c2c:secret@{host}/c2c")).is_ok(), "{host}");
        }
        for refused in [
            "",
            "sled",
            "host=localhost user=c2c",
            "postgresql://",
            "postgresql://localhost/c2c",
            "postgresql://c2c@db.example.com/c2c",
            "postgresql://c2c@localhost,db.example.com/c2c",
            "postgresql://c2c@localhost/c2c?sslmode=require",
        ] {
            assert!(PostgresUrl::from_str(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let url = "postgresql://c2c:secret@db-1.example.com,db-2.example.com:6432/net?sslmode=disable";
        let url: PostgresUrl = url.parse().unwrap();
        let shown = "postgresql://db-1.example.com,db-2.example.com/net";
        assert_eq!((url.to_string(), format!("{url:?}")), (shown.to_owned(), shown.to_owned()));
    }
}
