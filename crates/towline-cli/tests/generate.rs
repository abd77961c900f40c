//! `towline completions` and `towline man`.

mod common;

use common::{Directory, run};

#[test]
fn completions_know_the_sub_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let text = run(&["completions", shell]).expect(0).stdout;
        for word in ["perf", "receive", "link"] {
            assert!(text.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn every_sub_command_has_a_page() {
    let scratch = Directory::new("man");
    let out = scratch.file("man1");
    run(&["man", "--out", &out]).expect(0);
    for name in ["towline", "towline-send", "towline-perf", "towline-perf-client", "towline-link"] {
        let page = std::fs::read_to_string(format!("{out}/{name}.1")).unwrap();
        assert!(page.contains(".TH") && page.contains("Examples"), "{name}:\n{page}");
    }
    assert!(run(&["man"]).expect(0).stdout.contains("NAME"));
}
