//! ADD's result in the shape of each version.

use crate::conf::Conf;
use crate::error::CniError;
use crate::previous;
use crate::version::is_before_1;
use c2c_proto::agent_api::{Added, Interface};
use serde_json::{Map, Value, json};

/// The result of an ADD: what the plugins before us made, kept as it is, and what the agent made.
pub(crate) fn document(added: &Added, netns: &str, conf: &Conf) -> Result<Value, CniError> {
    let mut result = conf.previous.clone().unwrap_or_default();
    let before = previous::list(&result, "interfaces")?.len();
    append(&mut result, "interfaces", interfaces(added, netns, &conf.version))?;
    append(&mut result, "ips", vec![ip(added, before + 1, &conf.version)])?;
    append(&mut result, "routes", vec![json!({ "dst": "0.0.0.0/0", "gw": added.gateway })])?;
    result.insert("cniVersion".to_owned(), conf.version.as_str().into());
    put_dns(&mut result, added, conf);
    Ok(Value::Object(result))
}

fn append(result: &mut Map<String, Value>, key: &str, mut ours: Vec<Value>) -> Result<(), CniError> {
    let mut items = previous::list(result, key)?.to_vec();
    items.append(&mut ours);
    result.insert(key.to_owned(), items.into());
    Ok(())
}

/// The host's end, then the container's. `mtu` came with 1.1.0.
fn interfaces(added: &Added, netns: &str, version: &str) -> Vec<Value> {
    let shape = |Interface { name, mac }: &Interface, sandbox: Option<&str>| {
        let mut interface = json!({ "name": name, "mac": mac });
        if version == "1.1.0" {
            interface["mtu"] = added.mtu.into();
        }
        if let Some(sandbox) = sandbox {
            interface["sandbox"] = sandbox.into();
        }
        interface
    };
    vec![shape(&added.host, None), shape(&added.container, Some(netns))]
}

/// `version` went with 1.0.0.
fn ip(added: &Added, interface: usize, version: &str) -> Value {
    let mut ip = json!({ "address": format!("{}/32", added.address), "gateway": added.gateway, "interface": interface });
    if is_before_1(version) {
        ip["version"] = "4".into();
    }
    ip
}

/// The first who says something about a key counts: the plugins before us, then the configuration, then the agent. Before
/// 1.0.0 `dns` is printed even when it is empty.
fn put_dns(result: &mut Map<String, Value>, added: &Added, conf: &Conf) {
    let said = result.get("dns").and_then(Value::as_object).filter(|dns| !dns.is_empty());
    let mut dns = said.unwrap_or(&conf.dns).clone();
    if said.is_none() {
        put_absent(&mut dns, "nameservers", added.dns_servers.as_ref());
        put_absent(&mut dns, "search", added.search_domains.as_ref());
    }
    if is_before_1(&conf.version) || !dns.is_empty() {
        result.insert("dns".to_owned(), dns.into());
    } else {
        result.remove("dns");
    }
}

/// A list that the agent was not told of stays absent, and an empty one is an empty one.
fn put_absent(dns: &mut Map<String, Value>, key: &str, list: Option<&Vec<String>>) {
    if let Some(list) = list {
        dns.entry(key).or_insert_with(|| list.clone().into());
    }
}
