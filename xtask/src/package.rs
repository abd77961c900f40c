//! What C and C++ programs need: the examples, and an installation.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Outcome, cargo, root, say, step};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the static library needs of the system, as `rustc --print native-static-libs` tells.
const SYSTEM: &str = "-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc";

/// How the library is built.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    Release,
    Debug,
}

impl Profile {
    fn folder(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Debug => "debug",
        }
    }
}

/// Builds packages of the workspace and returns where the artefacts are. Tests have built them already.
fn build(profile: Profile, packages: &[&str]) -> Result<PathBuf, String> {
    if let (Profile::Debug, Some(folder)) = (profile, std::env::var_os("TOWLINE_BUILT")) {
        return Ok(root().join(folder));
    }
    let mut arguments = vec!["build", "--quiet"];
    if profile == Profile::Release {
        arguments.push("--release");
    }
    for package in packages {
        arguments.extend(["-p", package]);
    }
    step(&format!("build {}", packages.join(" ")), &mut cargo(&arguments))?;
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| root().join("target"), PathBuf::from);
    Ok(root().join(target).join(profile.folder()))
}

/// The examples of the SDK, into `build/example/`.
pub(crate) fn examples(options: &[&str]) -> Outcome {
    let (profile, folder) = match options {
        [] => (Profile::Release, root().join("build/example")),
        ["--debug", folder] => (Profile::Debug, PathBuf::from(folder)),
        _ => return Err("cargo xtask examples takes no options".to_owned()),
    };
    let built = build(profile, &["towline-capi"])?;
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(failed)?;
    let mut link: Vec<OsString> = Vec::new();
    match profile {
        Profile::Release => {
            link.push(built.join("libtowline.a").into());
            link.extend(SYSTEM.split(' ').map(OsString::from));
        }
        // Linking an archive with the debug information of everything takes long for each example.
        Profile::Debug => {
            let beside = folder.join(format!("libtowline.so.{VERSION}"));
            fs::remove_file(&beside).ok();
            symlink(built.join("libtowline.so"), &beside).map_err(failed)?;
            link.push(beside.into());
            link.push("-Wl,-rpath,$ORIGIN".into());
        }
    }
    let include = root().join("crates/towline-capi/include");
    for (language, compiler, standard) in [("c", "cc", "-std=c11"), ("cpp", "c++", "-std=c++17")] {
        for source in files(&root().join("examples").join(language))? {
            let name = source.file_stem().unwrap_or_default();
            let mut command = Command::new(compiler);
            command.args([standard, "-O2", "-Wall", "-Wextra", "-pedantic", "-pthread"]);
            command.arg("-I").arg(include.join("c")).arg("-I").arg(include.join("cpp"));
            command.arg(&source).args(&link).arg("-o").arg(folder.join(name));
            step(&format!("build/example/{}", name.to_string_lossy()), &mut command)?;
        }
    }
    Ok(())
}

/// The files of a folder, sorted.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|kind| kind != "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Lays out headers, libraries, package descriptions, the command and its pages.
pub(crate) fn install(options: &[&str]) -> Outcome {
    let (prefix, profile) = match options {
        ["--prefix", prefix] => (prefix, Profile::Release),
        ["--prefix", prefix, "--debug"] => (prefix, Profile::Debug),
        _ => return Err("cargo xtask install --prefix DIR".to_owned()),
    };
    let built = build(profile, &["towline-capi", "towline-cli"])?;
    let place = Place { prefix: std::path::absolute(prefix).map_err(|error| error.to_string())? };
    let include = root().join("crates/towline-capi/include");
    for language in ["c", "cpp"] {
        for header in files(&include.join(language))? {
            place.copy(&header, &format!("include/towline/{language}"))?;
        }
    }
    place.copy(&built.join("libtowline.a"), "lib")?;
    place.copy_as(&built.join("libtowline.so"), "lib", &format!("libtowline.so.{VERSION}"))?;
    place.link(&format!("libtowline.so.{VERSION}"), "lib/libtowline.so")?;
    place.write(
        "lib/pkgconfig/towline.pc",
        &package("towline", "Messages over connections that hold on bad networks", ""),
    )?;
    place.write(
        "lib/pkgconfig/bats.pc",
        &package("bats", "The BATS SDK's interface over Towline", "Requires: towline\n"),
    )?;
    place.write("lib/cmake/towline/towline-config.cmake", CMAKE_CONFIG)?;
    place.write("lib/cmake/towline/towline-config-version.cmake", &cmake_version())?;
    let command = built.join("towline");
    // Tests of the library alone have not built the command.
    if profile == Profile::Release || command.exists() {
        place.copy(&command, "bin")?;
        pages(&command, &place)?;
    }
    say(&format!("installed into {}", place.prefix.display()));
    Ok(())
}

/// Man pages and shell completions, as the command itself writes them.
fn pages(command: &Path, place: &Place) -> Outcome {
    let run = |arguments: &[&str], folder: Option<&Path>| -> Result<Vec<u8>, String> {
        let output = Command::new(command).args(arguments).args(folder).output();
        let output = output.map_err(|error| format!("{}: {error}", command.display()))?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr))),
        }
    };
    for (shell, file) in [
        ("bash", "share/bash-completion/completions/towline"),
        ("zsh", "share/zsh/site-functions/_towline"),
        ("fish", "share/fish/vendor_completions.d/towline.fish"),
    ] {
        place.write_bytes(file, &run(&["completions", shell], None)?)?;
    }
    run(&["man", "--out"], Some(&place.folder("share/man/man1")?)).map(drop)
}

/// Where things are installed.
struct Place {
    prefix: PathBuf,
}

impl Place {
    fn folder(&self, folder: &str) -> Result<PathBuf, String> {
        let folder = self.prefix.join(folder);
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(folder)
    }

    fn copy(&self, from: &Path, folder: &str) -> Outcome {
        let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.copy_as(from, folder, &name)
    }

    fn copy_as(&self, from: &Path, folder: &str, name: &str) -> Outcome {
        let to = self.folder(folder)?.join(name);
        // A library in use is replaced, not written over.
        fs::remove_file(&to).ok();
        fs::copy(from, &to)
            .map_err(|error| format!("{} to {}: {error}", from.display(), to.display()))?;
        Ok(())
    }

    fn link(&self, to: &str, link: &str) -> Outcome {
        let link = self.prefix.join(link);
        fs::remove_file(&link).ok();
        symlink(to, &link).map_err(|error| format!("{}: {error}", link.display()))
    }

    fn write(&self, file: &str, text: &str) -> Outcome {
        self.write_bytes(file, text.as_bytes())
    }

    fn write_bytes(&self, file: &str, bytes: &[u8]) -> Outcome {
        let path = self.prefix.join(file);
        let parent = path.parent().unwrap_or(&self.prefix);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, bytes))
            .map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// A description for pkg-config. The prefix is found from where the file is, so that the tree can be moved.
fn package(name: &str, description: &str, requires: &str) -> String {
    let libraries = match name {
        "towline" => format!("Libs: -L${{libdir}} -ltowline\nLibs.private: {SYSTEM}\n"),
        _ => String::new(),
    };
    format!(
        "prefix=${{pcfiledir}}/../..\nlibdir=${{prefix}}/lib\nincludedir=${{prefix}}/include/towline\n\n\
         Name: {name}\nDescription: {description}\nVersion: {VERSION}\n{requires}\
         Cflags: -I${{includedir}}/c -I${{includedir}}/cpp\n{libraries}"
    )
}

const CMAKE_CONFIG: &str = r#"# find_package(towline): the targets towline::towline (shared) and towline::static.
get_filename_component(_towline_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
set(_towline_include "${_towline_prefix}/include/towline/c" "${_towline_prefix}/include/towline/cpp")
find_package(Threads REQUIRED)
if(NOT TARGET towline::towline)
  add_library(towline::towline SHARED IMPORTED)
  set_target_properties(towline::towline PROPERTIES
    IMPORTED_LOCATION "${_towline_prefix}/lib/libtowline.so"
    INTERFACE_INCLUDE_DIRECTORIES "${_towline_include}")
  add_library(towline::static STATIC IMPORTED)
  set_target_properties(towline::static PROPERTIES
    IMPORTED_LOCATION "${_towline_prefix}/lib/libtowline.a"
    INTERFACE_INCLUDE_DIRECTORIES "${_towline_include}"
    INTERFACE_LINK_LIBRARIES "gcc_s;util;rt;m;dl;c;Threads::Threads")
endif()
"#;

/// Before 1.0 a minor version may break: only the same one is compatible.
fn cmake_version() -> String {
    let mut parts = VERSION.split('.');
    let same = format!("{}.{}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!(
        "set(PACKAGE_VERSION \"{VERSION}\")\n\
         if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)\n  set(PACKAGE_VERSION_EXACT TRUE)\nendif()\n\
         if(\"${{PACKAGE_FIND_VERSION_MAJOR}}.${{PACKAGE_FIND_VERSION_MINOR}}\" STREQUAL \"{same}\"\n   \
         AND NOT PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)\n  set(PACKAGE_VERSION_COMPATIBLE TRUE)\nendif()\n"
    )
}
