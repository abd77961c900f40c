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

/// The blocks of a page that are in this language and whole programs.
fn programs_of(page: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(support::root().join(page)).expect("the page");
    let opening = format!("```{language}\n");
    let blocks = text.split(&opening).skip(1);
    let blocks = blocks.filter_map(|rest| rest.split("```").next());
    blocks.filter(|block| block.contains("int main(")).map(str::to_owned).collect()
}

#[test]
fn the_guides_programs_compile_and_talk() {
    for (page, name, language, run) in [
        // This one needs a server.
        ("docs/c.md", "c", Language::C11, false),
        ("docs/guide/api.md", "c", Language::C11, true),
        ("docs/guide/api.md", "cpp", Language::Cpp17, true),
    ] {
        let found = programs_of(page, name);
        assert_eq!(found.len(), 1, "{page}: {name}");
        let kind = if name == "c" { "c" } else { "cc" };
        let stem = page.replace(['/', '.'], "-");
        let source = support::scratch().join(format!("{stem}-{}.{kind}", std::process::id()));
        std::fs::write(&source, &found[0]).expect("a file");
        let program = Build::of(source, language).build();
        if run {
            let output = support::ok(&mut std::process::Command::new(program));
            assert_eq!(output.stdout, b"by the mark, five\n", "{page}: {name}");
        }
    }
}
