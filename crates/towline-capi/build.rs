//! Gives the shared library its SONAME, which plain cargo does not.

fn main() {
    // Before 1.0 every version may change the ABI: the whole version is the name.
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libtowline.so.{version}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
