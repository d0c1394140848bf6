//! Compiles the protobuf contracts. protox is a protobuf compiler in Rust, so no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=c2c");
    let files = protox::compile(["c2c/v1/fabric.proto", "c2c/v1/operator.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
