//! Hands the compiled eBPF object to the crate, which embeds it: what the tests load is what ships.

use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-env-changed=C2C_BPF_OBJECT");
    let object = env::var_os("C2C_BPF_OBJECT").map_or_else(|| "../target/bpf/c2c.o".into(), PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).map_err(|error| {
        format!("no eBPF object at {}: {error}. `cargo xtask build` makes it first.", object.display())
    })?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("c2c.o"), bytes)?;
    Ok(())
}
