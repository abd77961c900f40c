//! C and C++ programs against the library, as a program would use it: compiled by gcc and clang, linked with the shared or the static
//! library, and run plain, under AddressSanitizer and UndefinedBehaviorSanitizer, and under valgrind.

mod support;

use support::{Build, Compiler, Language, headers};

/// The test programs, each with the checks that it is run under.
const PROGRAMS: [(&str, Language); 3] = [
    ("towline_messages.c", Language::C11),
    ("towline_misuse.c", Language::C11),
    ("towline_cpp.cc", Language::Cpp17),
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
fn programs_run_with_the_static_library() {
    Build::new("towline_messages.c", Language::C11).statically().run();
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
