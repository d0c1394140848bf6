//! Looks into the eBPF object before it ships: a panic path that survived would loop in the kernel, or be refused there.

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSymbol};
use std::path::Path;

/// Parts of the names of what `core` calls when it gives up, in the old and in the new mangling.
const PANICS: &[&str] = &[
    "rust_begin_unwind",
    "core9panicking",
    "panic_fmt",
    "panic_bounds_check",
    "_index_len_fail",
    "index_order_fail",
    "unwrap_failed",
    "expect_failed",
];

/// Fails when a symbol of the object belongs to a panic.
pub(crate) fn no_panic_symbol(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file =
        object::File::parse(&*bytes).with_context(|| format!("{} is not an ELF object", path.display()))?;
    let names = file.symbols().filter_map(|symbol| symbol.name().ok().map(str::to_owned));
    let panics: Vec<String> = names.filter(|name| is_panic(name)).collect();
    if panics.is_empty() {
        return Ok(());
    }
    bail!(
        "{} can panic, which a program in the kernel must not: {}. Find the indexing, slicing or arithmetic that needs it",
        path.display(),
        panics.join(", ")
    )
}

fn is_panic(symbol: &str) -> bool {
    PANICS.iter().any(|part| symbol.contains(part))
}

#[cfg(test)]
mod tests {
    use super::is_panic;

    #[test]
    fn panics_are_recognised_by_their_symbols() {
        assert!(is_panic("_RNvNtCs1_4core9panicking9panic_fmt"));
        assert!(is_panic("_RNvCs2_7___rustc17rust_begin_unwind"));
        assert!(is_panic("_ZN4core5slice5index26slice_start_index_len_fail17h00E"));
        for ours in ["from_container", "to_container", "POLICIES", "memcpy", "LBB0_1"] {
            assert!(!is_panic(ours), "{ours}");
        }
    }
}
