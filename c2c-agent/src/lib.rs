//! c2c-agent, the part of c2c that runs on every cell.
//!
//! Rooms: `datapath` owns programs and maps, `host` interfaces and routes, `endpoint` the containers, `cni_api` the
//! socket; `lease` and `policy` are pure, `control_stream` feeds them, `fabric` enforces what they say; `self_test` tries
//! what the underlay device does to tunnelled packets; `status`,
//! `metrics` and `flow_log` tell about it, `cli` and `config` are how an operator speaks with it, `assembly` puts the
//! rooms together.

pub mod assembly;
pub mod cli;
pub mod cni_api;
pub mod config;
pub mod control_stream;
pub mod datapath;
pub mod endpoint;
pub mod fabric;
pub mod flow_log;
pub mod host;
pub mod lease;
pub mod metrics;
pub mod policy;
pub mod self_test;
pub mod status;
pub mod stop;
