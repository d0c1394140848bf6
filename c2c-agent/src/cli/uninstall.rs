//! Taking the agent off a cell: what it made is removed, and nothing else.

use crate::assembly::{Dismantled, dismantle};
use crate::config::Config;

/// Removes everything of ours from the cell.
pub(super) fn run(config: &Config, force: bool) -> anyhow::Result<String> {
    let Dismantled { containers } = dismantle(config, force)?;
    Ok(format!(
        "removed: {containers} containers' interfaces, the programs and maps in {}, the VXLAN device, the state in {}\n\
         not removed: the cell's lease (it expires, or: c2c-controller evict {}), the certificates, the configuration\n",
        config.datapath.pin_dir.display(),
        config.state_dir.display(),
        config.cell
    ))
}
