//! Taking everything apart that `open` puts together, and removing what it leaves in the kernel and on disk.

use super::open::{Cell, Kept, Lock, OpenError, VXLAN_DEVICE, open};
use crate::config::Config;
use crate::self_test::{self, fallback};
use crate::{endpoint, host};
use anyhow::{Context, anyhow, bail};
use std::fs;
use std::io;

/// What was removed.
#[derive(Clone, Copy, Debug)]
pub struct Dismantled {
    /// Containers that were still wired.
    pub containers: usize,
}

/// Removes programs, maps, interfaces and state of ours. Needs the state directory for itself: a running agent is not
/// taken apart.
///
/// # Errors
/// When an agent runs, when containers are wired and `force` is not given, or when something cannot be removed.
pub fn dismantle(config: &Config, force: bool) -> anyhow::Result<Dismantled> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let lock = Lock::take(&config.state_dir).map_err(explain)?;
        let cell = open(config, lock, Kept::read(&config.state_dir)).await?;
        let containers = cell.manager.list().len();
        if containers > 0 && !force {
            bail!("{containers} containers are wired on this cell: drain it first, or give --force to cut them off");
        }
        unwire(&cell).await?;
        tokio::task::spawn_blocking(move || remove(cell)).await??;
        forget(config)?;
        Ok(Dismantled { containers })
    })
}

fn explain(error: OpenError) -> anyhow::Error {
    if let OpenError::Busy { path } = &error {
        let held = path.display();
        return anyhow!(
            "the agent is running (it holds {held}): stop it first, with systemctl stop c2c-agent"
        );
    }
    error.into()
}

async fn unwire(cell: &Cell) -> anyhow::Result<()> {
    cell.manager.gc(Vec::new()).await.context("cannot unwire all containers")
}

fn remove(cell: Cell) -> anyhow::Result<()> {
    for device in cell.fabric.uninstall().context("cannot remove all programs and maps")? {
        host::remove_clsact(&device).with_context(|| format!("cannot remove the qdisc made on {device}"))?;
    }
    self_test::remove_left_over().context("cannot remove the devices of a self-test")?;
    fallback::put_back(&cell.saved).context("cannot switch offloads on again")?;
    host::remove_vxlan_device(VXLAN_DEVICE).context("cannot remove the VXLAN device")?;
    cell.saved.forget_all()?;
    Ok(())
}

/// Directories that may hold something else go only when they are empty.
fn forget(config: &Config) -> anyhow::Result<()> {
    let endpoints = config.state_dir.join("endpoints");
    gone(fs::remove_dir_all(&endpoints)).with_context(|| format!("cannot remove {}", endpoints.display()))?;
    for file in [endpoint::LAST_ADDRESS, endpoint::LAST_PORT, "lock"] {
        let path = config.state_dir.join(file);
        gone(fs::remove_file(&path)).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    for dir in [&config.pending_dir, &config.state_dir] {
        // Not there, or not empty: both are as they should be.
        let _ = fs::remove_dir(dir);
    }
    Ok(())
}

/// What was gone already is as it should be.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}
