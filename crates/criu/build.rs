//! Builds the library that a dump loads into CRIU (shim/spare.rs): a program of its own, so not one of cargo's
//! targets. Where it cannot be built there is none, and CRIU serves the memory itself.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = "shim/spare.rs";
/// For which it knows the kernel's numbers.
const ARCHITECTURES: [&str; 3] = ["x86_64", "aarch64", "riscv64"];

fn main() {
    println!("cargo::rerun-if-changed=shim");
    let out = PathBuf::from(var("OUT_DIR")).join("spare.so");
    if !ARCHITECTURES.contains(&var("CARGO_CFG_TARGET_ARCH").as_str()) || !build(&out) {
        println!("cargo::warning=no {SOURCE} for this platform: lazy dumps will be slower, and take CAP_SYS_RESOURCE");
        fs::write(&out, []).unwrap_or_else(|e| panic!("cannot write {}: {e}", out.display()));
    }
}

fn build(out: &Path) -> bool {
    let mut rustc = Command::new(var("RUSTC"));
    rustc
        .args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "spare", "--target", &var("TARGET")])
        .args(["-C", "panic=abort", "-C", "opt-level=2", "-C", "strip=symbols", "-C", "force-unwind-tables=no"])
        // The program that loads it has a C library already, whichever that is.
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nodefaultlibs", "-C", "target-feature=-crt-static"])
        .arg("-o")
        .args([out, SOURCE.as_ref()]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    rustc.status().is_ok_and(|status| status.success())
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_default()
}
