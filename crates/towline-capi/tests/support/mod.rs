//! Building and running C programs.

// Each test binary uses its own part.
#![allow(dead_code, reason = "shared by several test binaries")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

/// The checkout's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the root")
}

/// A folder for what tests make.
pub(crate) fn scratch() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi");
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Which compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    Gnu,
    Clang,
}

/// Which language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    C99,
    C11,
    Cpp17,
}

impl Compiler {
    fn program(self, language: Language) -> &'static str {
        match (self, language) {
            (Compiler::Gnu, Language::Cpp17) => "g++",
            (Compiler::Gnu, _) => "gcc",
            (Compiler::Clang, Language::Cpp17) => "clang++",
            (Compiler::Clang, _) => "clang",
        }
    }
}

impl Language {
    fn flags(self) -> [&'static str; 2] {
        match self {
            Language::C99 => ["-std=c99", "-xc"],
            Language::C11 => ["-std=c11", "-xc"],
            Language::Cpp17 => ["-std=c++17", "-xc++"],
        }
    }
}

/// Every header, with the languages that it is for.
pub(crate) fn headers() -> Vec<(PathBuf, &'static [Language])> {
    const BOTH: &[Language] = &[Language::C99, Language::C11, Language::Cpp17];
    const CPP: &[Language] = &[Language::Cpp17];
    let mut found = Vec::new();
    for (folder, languages) in [("c", BOTH), ("cpp", CPP)] {
        let folder = root().join("crates/towline-capi/include").join(folder);
        for entry in fs::read_dir(folder).expect("a folder of headers") {
            found.push((entry.expect("an entry").path(), languages));
        }
    }
    found
}

/// Where the artefacts are. Whoever builds the whole workspace says so in `TOWLINE_BUILT`; else the library is built here, with the same choice of packages
/// as these tests, so that nothing below it is built twice.
pub(crate) fn built() -> PathBuf {
    if let Some(folder) = std::env::var_os("TOWLINE_BUILT") {
        return root().join(folder);
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "-p", "towline-capi", "--lib", "--tests", "--target-dir"]);
    ok(cargo.arg(target).current_dir(root()));
    target.join("debug")
}

/// The project's own command, which builds nothing but itself.
pub(crate) fn xtask(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    cargo.args(["run", "--quiet", "-p", "xtask", "--"]).args(arguments);
    cargo.current_dir(root()).env("CARGO_TARGET_DIR", target).env("TOWLINE_BUILT", built());
    cargo
}

/// Where the shared library is, built once, under its SONAME, too.
pub(crate) fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let built = built();
        let folder = scratch().join("lib");
        fs::create_dir_all(&folder).expect("a folder");
        let soname = format!("libtowline.so.{}", env!("CARGO_PKG_VERSION"));
        for name in ["libtowline.so", &soname] {
            let link = folder.join(name);
            // Another test binary may do the same at the same time.
            let temporary = folder.join(format!("{name}.{}", std::process::id()));
            std::os::unix::fs::symlink(built.join("libtowline.so"), &temporary).expect("a link");
            fs::rename(&temporary, &link).expect("a link in place");
        }
        folder
    })
}

/// Runs a command that has to succeed, and shows what it said when it does not.
pub(crate) fn ok(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        said(&output.stdout),
        said(&output.stderr)
    );
    output
}

const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];

/// Compiles a program that consists of one header.
pub(crate) fn check_header(compiler: Compiler, language: Language, header: &Path) {
    let include = root().join("crates/towline-capi/include");
    let mut command = Command::new(compiler.program(language));
    // As a main file it would be told that a pragma or a guard is strange there: so it is included.
    let name = header.file_stem().expect("a name").to_string_lossy();
    let wrapper = scratch().join(format!("header-{name}-{language:?}-{compiler:?}.c"));
    let text = format!("#include \"{}\"\ntypedef int one_declaration;\n", header.display());
    fs::write(&wrapper, text).expect("a file");
    command.args(language.flags()).args(STRICT).arg("-fsyntax-only");
    command.arg("-I").arg(include.join("c")).arg("-I").arg(include.join("cpp"));
    ok(command.arg(&wrapper));
}

/// A program of `tests/capi/`, or of `examples/`.
pub(crate) struct Build {
    source: PathBuf,
    language: Language,
    compiler: Compiler,
    sanitized: bool,
    arguments: Vec<PathBuf>,
    wire: Option<&'static str>,
}

impl Build {
    pub(crate) fn new(program: &str, language: Language) -> Build {
        let source = root().join("tests/capi").join(program);
        Build {
            source,
            language,
            compiler: Compiler::Gnu,
            sanitized: false,
            arguments: Vec::new(),
            wire: None,
        }
    }

    /// A program elsewhere.
    pub(crate) fn of(source: PathBuf, language: Language) -> Build {
        Build { source, ..Build::new("", language) }
    }

    /// What the program is run with.
    pub(crate) fn with_arguments(mut self, arguments: [&PathBuf; 2]) -> Build {
        self.arguments = arguments.into_iter().cloned().collect();
        self
    }

    /// The scheme of the wire that stands in for the SDK's own.
    pub(crate) fn over(mut self, wire: &'static str) -> Build {
        self.wire = Some(wire);
        self
    }

    fn complete(&self, command: &mut Command) {
        command.args(&self.arguments);
        if let Some(wire) = self.wire {
            command.env("TOWLINE_BATS_WIRE", wire);
        }
    }

    /// With the sanitizers, by clang, whose runtime finds more.
    pub(crate) fn sanitized(mut self) -> Build {
        self.sanitized = true;
        self.compiler = Compiler::Clang;
        self
    }

    /// The program, compiled and linked by whichever test is the first to ask for it.
    pub(crate) fn build(&self) -> PathBuf {
        static PROGRAMS: Mutex<BTreeMap<PathBuf, Arc<OnceLock<()>>>> = Mutex::new(BTreeMap::new());
        let stem = self.source.file_stem().expect("a name").to_string_lossy();
        let kind = if self.sanitized { "-sanitized" } else { "" };
        let program = scratch().join(format!("{stem}{kind}-{}", std::process::id()));
        let once =
            PROGRAMS.lock().expect("the programs").entry(program.clone()).or_default().clone();
        once.get_or_init(|| self.compile(&program));
        program
    }

    fn compile(&self, program: &Path) {
        let library = library();
        let include = root().join("crates/towline-capi/include");
        let mut command = Command::new(self.compiler.program(self.language));
        command.args([self.language.flags()[0], "-g", "-O1", "-pthread"]).args(STRICT);
        if self.sanitized {
            command.args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
            command.arg("-fno-omit-frame-pointer");
        }
        for folder in [include.join("c"), include.join("cpp"), root().join("tests/capi")] {
            command.arg("-I").arg(folder);
        }
        command.arg(&self.source).arg("-o").arg(program);
        command.arg("-L").arg(library).arg("-ltowline");
        command.arg(format!("-Wl,-rpath,{}", library.display()));
        ok(&mut command);
        if self.sanitized {
            // What was asked for is really in it.
            let symbols = ok(Command::new("nm").arg(program));
            assert!(String::from_utf8_lossy(&symbols.stdout).contains("__asan_init"));
        }
    }

    /// Builds and runs; the program has to say `ok`.
    pub(crate) fn run(&self) {
        let program = self.build();
        let options = "detect_leaks=1:detect_stack_use_after_return=1:abort_on_error=0";
        let mut command = Command::new(&program);
        self.complete(&mut command);
        let output = ok(command.env("ASAN_OPTIONS", options));
        assert!(String::from_utf8_lossy(&output.stdout).ends_with("ok\n"));
    }

    /// Builds and runs under valgrind, over epoll: valgrind does not know io_uring.
    pub(crate) fn run_under_valgrind(&self) {
        let program = self.build();
        let mut command = Command::new("valgrind");
        command.args(["--quiet", "--error-exitcode=99", "--leak-check=full", "--fair-sched=yes"]);
        // Not "possible": the standard library keeps the main thread's own record by a pointer into its middle.
        command.args(["--show-leak-kinds=definite,indirect"]);
        command.args(["--errors-for-leak-kinds=definite,indirect"]);
        command.arg(&program);
        self.complete(&mut command);
        let output = ok(command.env("TOWLINE_DRIVER", "epoll"));
        assert!(String::from_utf8_lossy(&output.stdout).ends_with("ok\n"));
    }
}
