//! The incumbents' tables in PostgreSQL. Numbers, texts and JSON are cast, because their types changed over the years.

use super::{GroupRow, PolicyRow, Rows, Subnet, TagRow};
use crate::store::PostgresUrl;
use postgres::{Client, IsolationLevel, NoTls, Row, Transaction};

/// One statement may take this long.
const SETTINGS: &str = "SET statement_timeout = '60s'";

const SUBNETS: &str = "
    SELECT id::bigint, underlay_ip::text, overlay_subnet::text, overlay_hwaddr::text, last_renewed_at::bigint
    FROM subnets ORDER BY id";
const TAGS: &str = "SELECT id::bigint, guid::text, type::text FROM groups WHERE guid IS NOT NULL ORDER BY id";
const POLICIES: &str = "
    SELECT policies.id::bigint, policies.group_id::bigint, destinations.group_id::bigint, protocol::text,
           port::bigint, start_port::bigint, end_port::bigint
    FROM policies LEFT JOIN destinations ON destinations.id = policies.destination_id ORDER BY policies.id";
const SECURITY_GROUPS: &str = "
    SELECT id::bigint, guid::text, name::text, rules::text, running_default::boolean, staging_default::boolean,
           running_spaces::text, staging_spaces::text
    FROM security_groups ORDER BY id";

/// A database that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the database {url} cannot be read; expected that of {whose}")]
pub struct ImportError {
    url: PostgresUrl,
    whose: &'static str,
    source: postgres::Error,
}

/// Reads silk-controller's database, at one moment. Blocks.
///
/// # Errors
/// When it cannot be read.
pub fn read_subnets(url: &PostgresUrl) -> Result<Vec<Subnet>, ImportError> {
    let subnet = |row: &Row| -> Result<Subnet, postgres::Error> {
        Ok(Subnet {
            id: row.try_get(0)?,
            underlay: row.try_get(1)?,
            block: row.try_get(2)?,
            hardware_address: row.try_get(3)?,
            renewed: row.try_get(4)?,
        })
    };
    read(url, "silk-controller", |transaction| all(transaction, SUBNETS, subnet))
}

/// Reads policy-server's database, at one moment: all rows but subnets. Blocks.
///
/// # Errors
/// When it cannot be read.
pub fn read_policies(url: &PostgresUrl) -> Result<Rows, ImportError> {
    let tag = |row: &Row| -> Result<TagRow, postgres::Error> {
        Ok(TagRow { id: row.try_get(0)?, guid: row.try_get(1)?, kind: row.try_get(2)? })
    };
    read(url, "policy-server", |transaction| {
        Ok(Rows {
            tags: all(transaction, TAGS, tag)?,
            policies: all(transaction, POLICIES, policy)?,
            security_groups: all(transaction, SECURITY_GROUPS, security_group)?,
            ..Rows::default()
        })
    })
}

fn policy(row: &Row) -> Result<PolicyRow, postgres::Error> {
    Ok(PolicyRow {
        id: row.try_get(0)?,
        source: row.try_get(1)?,
        destination: row.try_get(2)?,
        protocol: row.try_get(3)?,
        port: row.try_get(4)?,
        start: row.try_get(5)?,
        end: row.try_get(6)?,
    })
}

fn security_group(row: &Row) -> Result<GroupRow, postgres::Error> {
    Ok(GroupRow {
        id: row.try_get(0)?,
        guid: row.try_get(1)?,
        name: row.try_get(2)?,
        rules: row.try_get(3)?,
        defaults: [row.try_get(4)?, row.try_get(5)?],
        spaces: [row.try_get(6)?, row.try_get(7)?],
    })
}

fn read<T>(
    url: &PostgresUrl,
    whose: &'static str,
    read: impl FnOnce(&mut Transaction<'_>) -> Result<T, postgres::Error>,
) -> Result<T, ImportError> {
    let connect = || -> Result<Client, postgres::Error> {
        let mut client = url.config().connect(NoTls)?;
        client.batch_execute(SETTINGS)?;
        Ok(client)
    };
    let rows = connect().and_then(|mut client| {
        let snapshot = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
        read(&mut snapshot.read_only(true).start()?)
    });
    rows.map_err(|source| ImportError { url: url.clone(), whose, source })
}

fn all<T>(
    transaction: &mut Transaction<'_>,
    query: &str,
    read: impl Fn(&Row) -> Result<T, postgres::Error>,
) -> Result<Vec<T>, postgres::Error> {
    transaction.query(query, &[])?.iter().map(read).collect()
}
