//! The controller's configuration: a TOML file, the environment and flags, the later over the earlier. What comes out is
//! checked whole; an error names the key, where it was set, and what was expected.

mod cloud;
mod internal;

pub use cloud::{CloudArgs, CloudConfig};
pub use internal::{InternalArgs, InternalConfig};

use crate::auth;
use crate::domain::{Pool, PoolError, Rules};
use crate::rest::Origins;
use crate::store::PostgresUrl;
use c2c_proto::tls::Files;
use clap::Args;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

const HOUR_SECONDS: u64 = 60 * 60;

/// Flags of `serve`. All are text: every layer is checked by the same code, with the same words.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArgs {
    /// Configuration file (TOML); its keys are the names of the flags below, with _ for -
    #[arg(long, env = "C2C_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to listen for agents and operators [default: 0.0.0.0:4103]
    #[arg(long, env = "C2C_LISTEN", value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// Where the state is kept
    #[arg(long, env = "C2C_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Database that the state is kept in, instead of a directory; better not as a flag if it has a password
    #[arg(long, env = "C2C_POSTGRES", hide_env_values = true, value_name = "URL")]
    pub postgres: Option<String>,
    /// CA whose certificates are accepted (PEM)
    #[arg(long, env = "C2C_CA", value_name = "FILE")]
    pub ca: Option<String>,
    /// The controller's certificate (PEM)
    #[arg(long, env = "C2C_CERTIFICATE", value_name = "FILE")]
    pub certificate: Option<String>,
    /// Its private key (PEM)
    #[arg(long, env = "C2C_KEY", value_name = "FILE")]
    pub key: Option<String>,
    /// Network that cells lease blocks of [default: 10.255.0.0/16]
    #[arg(long, env = "C2C_OVERLAY_NETWORK", value_name = "CIDR")]
    pub overlay_network: Option<String>,
    /// Prefix length of a block [default: 24]
    #[arg(long, env = "C2C_BLOCK_PREFIX_LENGTH", value_name = "BITS")]
    pub block_prefix_length: Option<String>,
    /// A lease expires this long after the last heartbeat [default: 168]
    #[arg(long, env = "C2C_LEASE_HOURS", value_name = "HOURS")]
    pub lease_hours: Option<String>,
    /// How often agents send heartbeats [default: 30]
    #[arg(long, env = "C2C_HEARTBEAT_SECONDS", value_name = "SECONDS")]
    pub heartbeat_seconds: Option<String>,
    /// VXLAN network identifier [default: 1]
    #[arg(long, env = "C2C_VNI", value_name = "NUMBER")]
    pub vni: Option<String>,
    /// UDP port of the tunnel [default: 4789]
    #[arg(long, env = "C2C_UDP_PORT", value_name = "PORT")]
    pub udp_port: Option<String>,
    /// Where to serve Cloud Foundry's external policy API; absent: nowhere
    #[arg(long, env = "C2C_REST_LISTEN", value_name = "IP:PORT")]
    pub rest_listen: Option<String>,
    /// The certificate shown there (PEM) [default: the controller's]
    #[arg(long, env = "C2C_REST_CERTIFICATE", value_name = "FILE")]
    pub rest_certificate: Option<String>,
    /// Its private key (PEM) [default: the controller's]
    #[arg(long, env = "C2C_REST_KEY", value_name = "FILE")]
    pub rest_key: Option<String>,
    /// Origins whose pages may read replies, with commas between them, or *
    #[arg(long, env = "C2C_REST_CORS_ORIGINS", value_name = "ORIGINS")]
    pub rest_cors_origins: Option<String>,
    /// The UAA whose tokens are accepted there
    #[arg(long, env = "C2C_UAA_URL", value_name = "URL")]
    pub uaa_url: Option<String>,
    /// What its tokens say as issuer [default: UAA_URL/oauth/token]
    #[arg(long, env = "C2C_UAA_ISSUER", value_name = "TEXT")]
    pub uaa_issuer: Option<String>,
    /// CA of the UAA's certificate (PEM) [default: that of the agents]
    #[arg(long, env = "C2C_UAA_CA", value_name = "FILE")]
    pub uaa_ca: Option<String>,
    /// About Cloud Controller.
    #[command(flatten)]
    pub cloud: CloudArgs,
    /// Where /metrics, /healthz and /readyz are [default: 127.0.0.1:9465]
    #[arg(long, env = "C2C_METRICS_ADDRESS", value_name = "IP:PORT")]
    pub metrics_address: Option<String>,
    /// Check all of this and the files that it names, say what would be run with, and start nothing
    #[arg(long)]
    pub check_config: bool,
    /// About cells that run Silk.
    #[command(flatten)]
    pub internal: InternalArgs,
    /// What to log: error, warn, info, debug, trace, or a tracing filter [default: info]
    #[arg(long, env = "C2C_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

/// Where the store of a controller is that is not running.
#[derive(Clone, Debug, Default, Args)]
#[group(required = true, multiple = false)]
pub struct StoreArgs {
    /// The controller's configuration file, which says where its store is
    #[arg(long, env = "C2C_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The store's directory
    #[arg(long, env = "C2C_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<String>,
    /// The store's database
    #[arg(long, env = "C2C_POSTGRES", hide_env_values = true, value_name = "URL")]
    pub postgres: Option<String>,
}

impl StoreArgs {
    /// Finds it.
    ///
    /// # Errors
    /// When the file cannot be read, or what is said cannot be a store.
    pub fn load(&self) -> Result<StorePlace, ConfigError> {
        let Self { config, data_dir, postgres } = self.clone();
        store(&Layers::read(&ServeArgs { config, data_dir, postgres, ..ServeArgs::default() })?)
    }
}

/// What `serve` runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the store is.
    pub store: StorePlace,
    /// Our certificate.
    pub files: Files,
    /// How leases are given.
    pub rules: Rules,
    /// How often agents send heartbeats.
    pub heartbeat_seconds: u64,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port of the tunnel.
    pub udp_port: u16,
    /// The external policy API; nothing when it is off.
    pub rest: Option<RestConfig>,
    /// Cloud Controller; nothing when it is not asked.
    pub cloud: Option<CloudConfig>,
    /// Where the pages about us are.
    pub metrics_address: SocketAddr,
    /// Cells that run Silk; nothing when they are not served.
    pub internal: Option<InternalConfig>,
    /// What to log.
    pub log: String,
}

/// What the external policy API is served with.
#[derive(Clone, Debug)]
pub struct RestConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The certificate that clients are shown.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Whose pages may read replies.
    pub origins: Origins,
    /// Whose tokens are accepted.
    pub uaa: auth::Settings,
}

/// Where the state is kept.
#[derive(Clone, Debug)]
pub enum StorePlace {
    /// In a directory of this machine.
    Directory(PathBuf),
    /// In a database.
    Postgres(PostgresUrl),
}

/// Why the controller cannot run so.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("config: cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("config: {} is not TOML: line {line}: {problem}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// The file has a key that nothing reads.
    #[error("{key}: unknown key in {}; expected one of {}", path.display(), expected.join(", "))]
    UnknownKey {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
        /// The keys that there are.
        expected: Vec<&'static str>,
    },
    /// A value cannot be right.
    #[error("{key}: {value:?} ({origin}) cannot be used; expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// Where it was set.
        origin: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A value that has no default is missing.
    #[error("{key}: is not set; expected {expected}, as --{}, {} or `{key}` in the configuration file", key.replace('_', "-"), env_name(key))]
    Missing {
        /// The key.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The network and the block size make no pool.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl Config {
    /// Reads the file, if one is named, and checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(args: &ServeArgs) -> Result<Self, ConfigError> {
        let layers = Layers::read(args)?;
        let file = |key, expected| layers.required(key, expected).map(PathBuf::from);
        let pool = Pool::new(
            layers.value(
                "overlay_network",
                "10.255.0.0/16",
                "an IPv4 network such as 10.255.0.0/16",
                |_| true,
            )?,
            layers.value("block_prefix_length", "24", "a prefix length from 8 to 29", |bits| {
                (8..=29).contains(bits)
            })?,
        )?;
        // A century: longer leases overflow no arithmetic, and mean nothing.
        let hours = |hours: &u64| (1..=876_000).contains(hours);
        let lease_hours: u64 = layers.value("lease_hours", "168", "hours from 1 to 876000", hours)?;
        Ok(Self {
            listen: layers.value(
                "listen",
                "0.0.0.0:4103",
                "an address and port such as 0.0.0.0:4103",
                |_| true,
            )?,
            store: store(&layers)?,
            files: Files {
                ca: file("ca", "a PEM file")?,
                cert: file("certificate", "a PEM file")?,
                key: file("key", "a PEM file")?,
            },
            rules: Rules { pool, lease_seconds: lease_hours * HOUR_SECONDS },
            heartbeat_seconds: layers.value(
                "heartbeat_seconds",
                "30",
                "seconds from 1 to 200",
                |seconds| {
                    // At least three heartbeats before a cell's name may be taken over.
                    (1..=200).contains(seconds)
                },
            )?,
            vni: layers
                .value("vni", "1", "a number from 1 to 16777215", |vni| (1..=0xff_ffff).contains(vni))?,
            udp_port: layers.value("udp_port", "4789", "a port from 1 to 65535", |port| *port != 0)?,
            rest: rest(&layers)?,
            cloud: cloud::cloud(&layers)?,
            metrics_address: layers.value(
                "metrics_address",
                "127.0.0.1:9465",
                "an address and port such as 127.0.0.1:9465",
                |_| true,
            )?,
            internal: internal::internal(&layers)?,
            log: layers.value("log", "info", "a tracing filter such as info", |filter: &String| {
                tracing_subscriber::EnvFilter::from_str(filter).is_ok()
            })?,
        })
    }
}

/// A database if one is set, else a directory.
fn store(layers: &Layers) -> Result<StorePlace, ConfigError> {
    let Some(set) = layers.set.get("postgres") else {
        return layers.required("data_dir", "a directory").map(|path| StorePlace::Directory(path.into()));
    };
    set.value.parse().map(StorePlace::Postgres).map_err(|_| ConfigError::Value {
        key: "postgres",
        // It may hold a password.
        value: "…".to_owned(),
        origin: set.origin.clone(),
        expected: "postgresql://USER:PASSWORD@HOST/DATABASE, and ?sslmode=disable after it for another machine, because the connection is not encrypted",
    })
}

/// The external policy API, if it is to be served.
fn rest(layers: &Layers) -> Result<Option<RestConfig>, ConfigError> {
    if !layers.has("rest_listen") {
        return Ok(None);
    }
    let file = |key, otherwise| layers.first_of(&[key, otherwise], "a PEM file");
    let uaa_url = layers.required("uaa_url", "the UAA's URL such as https://uaa.example.org")?;
    let issuer = format!("{}/oauth/token", uaa_url.trim_end_matches('/'));
    let address = "an address and port such as 0.0.0.0:4002";
    let origins = "* or origins such as https://apps.example.org, with commas between them";
    Ok(Some(RestConfig {
        listen: layers.value("rest_listen", "", address, |_| true)?,
        certificate: file("rest_certificate", "certificate")?.into(),
        key: file("rest_key", "key")?.into(),
        origins: layers.value("rest_cors_origins", "", origins, |_| true)?,
        uaa: auth::Settings {
            uaa_url: uaa_url.to_owned(),
            issuer: layers.value("uaa_issuer", &issuer, "text", |_| true)?,
            ca: file("uaa_ca", "ca")?.into(),
            online: cloud::online(layers)?,
        },
    }))
}

/// What was set, by key.
struct Layers {
    set: BTreeMap<&'static str, Set>,
}

struct Set {
    value: String,
    origin: String,
}

impl Layers {
    fn read(args: &ServeArgs) -> Result<Self, ConfigError> {
        let flags = flags(args);
        let keys: Vec<&'static str> = flags.iter().map(|(key, _)| *key).collect();
        let mut set = match &args.config {
            Some(path) => read_file(path, &keys)?,
            None => BTreeMap::new(),
        };
        for (key, value) in flags {
            if let Some(value) = value {
                let origin = format!("from --{} or {}", key.replace('_', "-"), env_name(key));
                set.insert(key, Set { value: value.clone(), origin });
            }
        }
        Ok(Self { set })
    }

    fn value<T: FromStr>(
        &self,
        key: &'static str,
        default: &str,
        expected: &'static str,
        legal: impl Fn(&T) -> bool,
    ) -> Result<T, ConfigError> {
        let (text, origin) = match self.set.get(key) {
            Some(set) => (set.value.as_str(), set.origin.as_str()),
            None => (default, "the default"),
        };
        text.parse().ok().filter(legal).ok_or_else(|| ConfigError::Value {
            key,
            value: text.to_owned(),
            origin: origin.to_owned(),
            expected,
        })
    }

    /// Whether the key is set to something.
    fn has(&self, key: &str) -> bool {
        self.set.get(key).is_some_and(|set| !set.value.is_empty())
    }

    /// The first of these that is set; the last one is asked for when none is.
    fn first_of(&self, keys: &[&'static str], expected: &'static str) -> Result<&str, ConfigError> {
        let set = keys.iter().find(|key| self.has(key)).or(keys.last());
        self.required(set.copied().unwrap_or_default(), expected)
    }

    fn required(&self, key: &'static str, expected: &'static str) -> Result<&str, ConfigError> {
        let set = self.set.get(key).filter(|set| !set.value.is_empty());
        set.map(|set| set.value.as_str()).ok_or(ConfigError::Missing { key, expected })
    }
}

/// Every key and what a flag or the environment says of it.
fn flags(args: &ServeArgs) -> Vec<(&'static str, &Option<String>)> {
    let flags = [
        ("listen", &args.listen),
        ("data_dir", &args.data_dir),
        ("postgres", &args.postgres),
        ("ca", &args.ca),
        ("certificate", &args.certificate),
        ("key", &args.key),
        ("overlay_network", &args.overlay_network),
        ("block_prefix_length", &args.block_prefix_length),
        ("lease_hours", &args.lease_hours),
        ("heartbeat_seconds", &args.heartbeat_seconds),
        ("vni", &args.vni),
        ("udp_port", &args.udp_port),
        ("rest_listen", &args.rest_listen),
        ("rest_certificate", &args.rest_certificate),
        ("rest_key", &args.rest_key),
        ("rest_cors_origins", &args.rest_cors_origins),
        ("uaa_url", &args.uaa_url),
        ("uaa_issuer", &args.uaa_issuer),
        ("uaa_ca", &args.uaa_ca),
        ("metrics_address", &args.metrics_address),
        ("log", &args.log),
    ];
    flags.into_iter().chain(cloud::flags(&args.cloud)).chain(internal::flags(&args.internal)).collect()
}

fn env_name(key: &str) -> String {
    format!("C2C_{}", key.to_uppercase())
}

fn read_file(path: &Path, keys: &[&'static str]) -> Result<BTreeMap<&'static str, Set>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        path: path.to_owned(),
        line: line_of(&text, error.span().map_or(0, |span| span.start)),
        problem: error.message().replace('\n', ", "),
    })?;
    table.into_iter().map(|(key, value)| read_key(path, keys, key, &value)).collect()
}

fn read_key(
    path: &Path,
    keys: &[&'static str],
    key: String,
    value: &toml::Value,
) -> Result<(&'static str, Set), ConfigError> {
    let Some(key) = keys.iter().copied().find(|known| *known == key) else {
        return Err(ConfigError::UnknownKey { key, path: path.to_owned(), expected: keys.to_vec() });
    };
    let origin = format!("in {}", path.display());
    let number = || value.as_integer().map(|number| number.to_string());
    let truth = || value.as_bool().map(|truth| truth.to_string());
    let text = value.as_str().map(str::to_owned).or_else(number).or_else(truth);
    match text {
        Some(value) => Ok((key, Set { value, origin })),
        None => Err(ConfigError::Value {
            key,
            value: value.to_string(),
            origin,
            expected: "a string, a whole number, true or false",
        }),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, change: impl FnOnce(&mut ServeArgs)) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("controller.toml");
        std::fs::write(&path, file).unwrap();
        let mut args = ServeArgs { config: Some(path), ..ServeArgs::default() };
        change(&mut args);
        Config::load(&args).map_err(|error| error.to_string())
    }

    const FILES: &str = "data_dir = 'd'\nca = 'a'\ncertificate = 'c'\nkey = 'k'\n";

    #[test]
    fn defaults_are_silks() {
        let config = load(FILES, |_| {}).unwrap();
        assert_eq!(config.listen, "0.0.0.0:4103".parse().unwrap());
        assert_eq!(config.rules.pool.network(), "10.255.0.0/16".parse().unwrap());
        assert_eq!((config.rules.pool.block_prefix(), config.rules.lease_seconds), (24, 604_800));
        assert_eq!((config.vni, config.udp_port, config.heartbeat_seconds), (1, 4789, 30));
    }

    #[test]
    fn a_database_takes_the_place_of_the_directory_and_its_password_is_not_shown() {
        let files = FILES.replace("data_dir = 'd'\n", "");
        let url = |url: &str| load(&files, |args| args.postgres = Some(url.to_owned()));
        let database = url("postgresql://c2c:secret@127.0.0.1/net").unwrap().store;
        assert_eq!(format!("{database:?}"), "Postgres(postgresql://127.0.0.1/net)");
        let error = url("postgresql://c2c:secret@db.example.com/net").unwrap_err();
        assert!(error.starts_with("postgres: \"…\" (from --postgres or C2C_POSTGRES)"), "{error}");
        assert!(error.contains("sslmode=disable") && !error.contains("secret"), "{error}");
        assert!(
            matches!(load(FILES, |_| {}).unwrap().store, StorePlace::Directory(path) if path == Path::new("d"))
        );
    }

    #[test]
    fn a_flag_is_stronger_than_the_file() {
        let file = format!("{FILES}vni = 7\nlisten = '127.0.0.1:1'");
        let config = load(&file, |args| args.listen = Some("127.0.0.1:2".to_owned())).unwrap();
        assert_eq!((config.vni, config.listen), (7, "127.0.0.1:2".parse().unwrap()));
    }

    #[test]
    fn the_policy_api_is_off_until_it_is_told_where_to_listen() {
        assert!(load(&format!("{FILES}uaa_url = 'https://uaa'"), |_| {}).unwrap().rest.is_none());
        let on = format!("{FILES}rest_listen = '127.0.0.1:4002'\nuaa_url = 'https://uaa.example.org/'");
        let rest = load(&on, |_| {}).unwrap().rest.unwrap();
        assert_eq!((rest.certificate, rest.key), ("c".into(), "k".into()), "the controller's own");
        let uaa = auth::Settings {
            uaa_url: "https://uaa.example.org/".to_owned(),
            issuer: "https://uaa.example.org/oauth/token".to_owned(),
            ca: "a".into(),
            online: None,
        };
        assert_eq!((rest.uaa, rest.origins), (uaa, Origins::default()));
        let more = "rest_certificate = 'rc'\nrest_key = 'rk'\nuaa_ca = 'ua'\nuaa_issuer = 'i'";
        let rest = load(&format!("{on}\n{more}"), |_| {}).unwrap().rest.unwrap();
        assert_eq!((rest.certificate, rest.key), ("rc".into(), "rk".into()));
        assert_eq!((rest.uaa.ca, rest.uaa.issuer.as_str()), ("ua".into(), "i"));
        let no_uaa = load(&format!("{FILES}rest_listen = '127.0.0.1:4002'"), |_| {}).unwrap_err();
        assert!(no_uaa.starts_with("uaa_url: is not set; expected the UAA's URL"), "{no_uaa}");
        let origins = load(&format!("{on}\nrest_cors_origins = 'apps.example.org'"), |_| {}).unwrap_err();
        assert!(origins.contains("expected * or origins such as https://"), "{origins}");
    }

    #[test]
    fn what_cannot_be_right_is_refused_with_its_key_in_one_line() {
        let cases = [
            ("vni = 0", "vni: \"0\" (in "),
            ("vni = 16777216", "expected a number from 1 to 16777215"),
            ("vni = true", "vni: \"true\" (in "),
            ("udp_port = 65536", "udp_port: \"65536\""),
            ("listen = '4103'", "listen: \"4103\""),
            ("lease_hours = 0", "lease_hours: \"0\""),
            ("heartbeat_seconds = 1000", "heartbeat_seconds: \"1000\""),
            ("overlay_network = 'x'", "overlay_network: \"x\""),
            (
                "overlay_network = '10.255.0.0/28'",
                "overlay_network: 10.255.0.0/28 is smaller than a block of /24",
            ),
            ("block_prefix_length = 30", "block_prefix_length: \"30\""),
            ("log = 'info,,=x='", "log: \"info,,=x=\""),
            ("lisen = ''", "lisen: unknown key in "),
            ("vni = ", "is not TOML: line 5: "),
            ("data_dir = 'e'", "is not TOML: line 5: "),
        ];
        for (line, message) in cases {
            let error = load(&format!("{FILES}{line}"), |_| {}).unwrap_err();
            assert!(error.contains(message) && !error.contains('\n'), "{line}: {error}");
        }
        let missing = load("ca = 'a'", |_| {}).unwrap_err();
        assert_eq!(
            missing,
            "data_dir: is not set; expected a directory, as --data-dir, C2C_DATA_DIR or `data_dir` in the configuration file"
        );
        let no_file = Config::load(&ServeArgs { config: Some("/none".into()), ..ServeArgs::default() });
        assert_eq!(no_file.unwrap_err().to_string(), "config: cannot read /none");
    }
}
