//! C and C++ programs against the library, as a program would use it: compiled by gcc and clang, linked with the shared
//! library (install.rs has the static one), and run plain, under AddressSanitizer and UndefinedBehaviorSanitizer, and under valgrind.

mod support;

use support::{Build, Compiler, Language, headers};

/// The test programs, each with the checks that it is run under.
const PROGRAMS: [(&str, Language); 6] = [
    ("towline_messages.c", Language::C11),
    ("towline_misuse.c", Language::C11),
    ("towline_cpp.cc", Language::Cpp17),
    ("socket_iocp_test.c", Language::C11),
    ("c4socket_test.c", Language::C11),
    ("c4socket_websocket.c", Language::C11),
];

#[test]
fn headers_compile_alone_as_every_language_and_by_both_compilers() {
    let found = headers();
    assert!(!found.is_empty());
    for (path, languages) in found {
        for language in languages {
            for compiler in [Compiler::Gnu, Compiler::Clang] {
                support::check_header(compiler, *language, &path);
            }
        }
    }
}

#[test]
fn programs_run() {
    for (program, language) in PROGRAMS {
        Build::new(program, language).run();
    }
}

#[test]
fn sync_sends_allocate_nothing() {
    Build::new("socket_iocp_allocations.c", Language::C11).run();
}

#[test]
fn completion_sockets_run_over_epoll_too() {
    let program = Build::new("socket_iocp_test.c", Language::C11).build();
    support::ok(std::process::Command::new(program).env("TOWLINE_DRIVER", "epoll"));
}

#[test]
fn programs_are_clean_under_the_sanitizers() {
    for (program, language) in PROGRAMS {
        Build::new(program, language).sanitized().run();
    }
}

#[test]
fn programs_are_clean_under_valgrind() {
    for (program, language) in PROGRAMS {
        Build::new(program, language).run_under_valgrind();
    }
}

#[test]
fn the_guides_program_compiles() {
    let guide = support::root().join("docs/c.md");
    let guide = std::fs::read_to_string(guide).expect("the guide");
    let program = guide.split("```c\n").nth(1).and_then(|rest| rest.split("```").next());
    let source = support::scratch().join("guide.c");
    std::fs::write(&source, program.expect("a program")).expect("a file");
    Build::of(source, Language::C11).build();
}
