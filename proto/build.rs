//! Compiles the wire contract without protoc: protox parses, tonic-prost-build generates.
use std::{env, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = ["fleetmend/v1/agent.proto", "fleetmend/v1/enrollment.proto", "fleetmend/v1/outcome.proto"];
    for proto in protos {
        println!("cargo:rerun-if-changed={proto}");
    }
    let descriptors = protox::compile(protos, ["."])?;
    // Served by the reflection service and read by the method-policy check at start.
    let out = PathBuf::from(env::var("OUT_DIR")?).join("fleetmend.bin");
    fs::write(out, descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".fleetmend.v1")
        .codec_path("crate::codec::LeanCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
