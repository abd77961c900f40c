//! Case 97: what servers set comes back to them, and to nobody else (RFC 6265).

use std::time::{Duration, SystemTime};

use super::super::handshake::{
    CookieError, CookieJar, Headers, MAX_COOKIE, MAX_COOKIES, MAX_COOKIES_PER_DOMAIN, Target,
};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn now() -> SystemTime {
    NOW + Duration::from_secs(1_700_000_000)
}

fn target(url: &str) -> Target {
    Target::parse(url).expect("an address").0
}

/// What a jar that took `lines` from `from` says to `to`.
fn said(from: &str, lines: &[&str], to: &str) -> Option<String> {
    let mut jar = CookieJar::new();
    for line in lines {
        jar.set(&target(from), line, now()).expect(line);
    }
    jar.header(&target(to), now())
}

fn refused(from: &str, line: &str) -> CookieError {
    let mut jar = CookieJar::new();
    let error = jar.set(&target(from), line, now()).expect_err(line);
    assert_eq!(jar.iter().count(), 0);
    error
}

#[test]
fn case_97_cookies_go_back_to_their_host_and_path() {
    // RFC 6265 section 3.1.
    assert_eq!(
        said("ws://h/", &["SID=31d4d96e407aad42"], "ws://h/"),
        Some("SID=31d4d96e407aad42".into())
    );
    let both = ["SID=31d4d96e407aad42; Path=/; Secure; HttpOnly", "lang=en-US; Path=/"];
    assert_eq!(
        said("wss://h/", &both, "wss://h/x"),
        Some("SID=31d4d96e407aad42; lang=en-US".into())
    );
    assert_eq!(
        said("wss://h/", &both, "ws://h/x"),
        Some("lang=en-US".into()),
        "secure stays with TLS"
    );
    for to in ["ws://other/", "ws://sub.h/", "ws://hh/"] {
        assert_eq!(said("ws://h/", &["a=b"], to), None, "{to}");
    }
    // Ports do not keep cookies apart (section 8.5).
    assert_eq!(said("ws://h:1/", &["a=b"], "ws://h:2/"), Some("a=b".into()));
    // The default path is the directory of the request's (section 5.1.4).
    for (set, to, goes) in [
        ("ws://h/a/b?q=/z", "ws://h/a/c", true),
        ("ws://h/a/b", "ws://h/a", true),
        ("ws://h/a/b", "ws://h/a?q", true),
        ("ws://h/a/b", "ws://h/ab", false),
        ("ws://h/a/b", "ws://h/", false),
        ("ws://h/a", "ws://h/", true),
    ] {
        assert_eq!(said(set, &["a=b"], to).is_some(), goes, "{set} {to}");
    }
    // Longer paths first, then older ones (section 5.4).
    let lines = ["a=1; path=/", "b=2; path=/x", "c=3; path=/", "d=4; path=/x/"];
    assert_eq!(said("ws://h/x/y", &lines, "ws://h/x/y"), Some("d=4; b=2; a=1; c=3".into()));
    // A path that is none is the default one.
    assert_eq!(said("ws://h/x/y", &["a=1; path=z"], "ws://h/x/"), Some("a=1".into()));
}

#[test]
fn case_97_what_is_set_again_is_replaced_and_what_has_ended_is_gone() {
    assert_eq!(said("ws://h/", &["a=1", "b=2", "a=3"], "ws://h/"), Some("a=3; b=2".into()));
    let gone = ["a=1", "b=2", "a=; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "b=; Max-Age=0"];
    assert_eq!(said("ws://h/", &gone, "ws://h/"), None);
    assert_eq!(said("ws://h/", &["a=1", "a=2; Max-Age=-1"], "ws://h/"), None);
    // Max-Age comes before Expires, and what cannot be read is ignored.
    let lines = [
        "a=1; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "b=2; Max-Age=soon; Expires=then",
    ];
    assert_eq!(said("ws://h/", &lines, "ws://h/"), Some("a=1; b=2".into()));

    let mut jar = CookieJar::new();
    let host = target("ws://h/");
    jar.set(&host, "short=1; max-age=10", now()).expect("taken");
    jar.set(&host, "long=1; max-age=99999999999999999999999", now()).expect("taken");
    jar.set(&host, "session=1", now()).expect("taken");
    let header = |seconds| jar.header(&host, now() + Duration::from_secs(seconds));
    assert_eq!(header(9), Some("short=1; long=1; session=1".into()));
    assert_eq!(header(10), Some("long=1; session=1".into()));
    assert_eq!(header(401 * 86_400), Some("session=1".into()), "400 days at most");
    jar.clear();
    assert_eq!(jar.header(&host, now()), None);
}

#[test]
fn case_97_domains_above_the_host_only_when_asked_for() {
    // One's own name means the hosts below it too.
    assert_eq!(
        said("ws://h.example/", &["a=b; Domain=.H.Example"], "ws://sub.h.example/"),
        Some("a=b".into())
    );
    for line in ["a=b; Domain=example.com", "a=b; Domain=com", "a=b; Domain=other.example.com"] {
        assert_eq!(refused("ws://www.example.com/", line), CookieError::Domain, "{line}");
    }
    let mut jar = CookieJar::new();
    jar.accept_parent_domains(true);
    let www = target("ws://www.example.com/");
    jar.set(&www, "a=b; Domain=example.com", now()).expect("taken");
    assert_eq!(jar.header(&target("ws://api.example.com/"), now()), Some("a=b".into()));
    assert_eq!(jar.header(&target("ws://notexample.com/"), now()), None);
    for line in ["a=b; Domain=com", "a=b; Domain=ample.com", "a=b; Domain=x.example.com"] {
        assert_eq!(jar.set(&www, line, now()), Err(CookieError::Domain), "{line}");
    }
    // Addresses have nothing above them.
    let address = target("ws://10.0.0.1/");
    assert_eq!(jar.set(&address, "a=b; Domain=0.0.1", now()), Err(CookieError::Domain));
    jar.set(&address, "a=b; Domain=10.0.0.1", now()).expect("itself");
    assert_eq!(jar.header(&target("ws://1.10.0.0.1/"), now()), None);
}

#[test]
fn case_97_secure_cookies_are_not_set_or_replaced_without_tls() {
    assert_eq!(refused("ws://h/", "a=b; Secure"), CookieError::Insecure);
    let mut jar = CookieJar::new();
    jar.set(&target("wss://h/"), "a=b; Secure; Path=/", now()).expect("taken");
    assert_eq!(jar.set(&target("ws://h/"), "a=evil; Path=/x", now()), Err(CookieError::Insecure));
    assert_eq!(jar.set(&target("ws://h/"), "a=; Max-Age=0", now()), Err(CookieError::Insecure));
    assert_eq!(jar.header(&target("wss://h/x"), now()), Some("a=b".into()));

    assert_eq!(refused("wss://h/", "__Secure-a=b"), CookieError::Prefix);
    for line in ["__Host-a=b; Secure", "__Host-a=b; Path=/", "__host-a=b; Secure; Path=/; Domain=h"]
    {
        assert_eq!(refused("wss://h/", line), CookieError::Prefix, "{line}");
    }
    let line = "__Host-a=b; Secure; Path=/";
    assert_eq!(said("wss://h/x/y", &[line], "wss://h/"), Some("__Host-a=b".into()));
}

#[test]
fn case_97_what_is_no_cookie_is_refused() {
    for line in ["", "a", "=b", "a b=c", "a=b\r\nX: y", "a=\u{7f}", "a=ä", ";a=b", "a=b\u{0}"] {
        assert_eq!(refused("ws://h/", line), CookieError::Malformed, "{line:?}");
    }
    let long = format!("a={}", "x".repeat(MAX_COOKIE));
    assert_eq!(refused("ws://h/", &long), CookieError::TooLarge);
    assert!(said("ws://h/", &[&long[..MAX_COOKIE + 1]], "ws://h/").is_some());
    // Quotes are part of the value, and so are equals signs.
    assert_eq!(said("ws://h/", &["a = \"b=c\" ; x"], "ws://h/"), Some("a=\"b=c\"".into()));
}

#[test]
fn case_97_a_response_may_set_several_and_one_refused_spoils_none() {
    let mut headers = Headers::new();
    for value in ["a=1", "b=2; Domain=elsewhere.example", "c=3"] {
        headers.push("Set-Cookie", value).expect("valid");
    }
    let mut jar = CookieJar::new();
    assert_eq!(jar.store(&target("ws://h/"), &headers, now()), 2);
    assert_eq!(jar.header(&target("ws://h/"), now()), Some("a=1; c=3".into()));
}

#[test]
fn case_97_a_jar_is_bounded_and_the_oldest_make_room() {
    let mut jar = CookieJar::new();
    for number in 0..MAX_COOKIES_PER_DOMAIN + 3 {
        jar.set(&target("ws://h/"), &format!("n{number}=x"), now()).expect("taken");
    }
    assert_eq!(jar.iter().count(), MAX_COOKIES_PER_DOMAIN);
    assert_eq!(jar.iter().next().expect("one").name, "n3");
    for number in 0..MAX_COOKIES {
        jar.set(&target(&format!("ws://h{number}/")), "a=b", now()).expect("taken");
    }
    assert_eq!(jar.iter().count(), MAX_COOKIES);
    assert_eq!(jar.header(&target("ws://h/"), now()), None, "the oldest have gone");
    // One that has ended makes room before any other does.
    let soon = now() + Duration::from_secs(5);
    let mut jar = CookieJar::new();
    jar.set(&target("ws://h/"), "first=1", now()).expect("taken");
    jar.set(&target("ws://h/"), "ends=1; max-age=5", now()).expect("taken");
    for number in 2..=MAX_COOKIES_PER_DOMAIN {
        jar.set(&target("ws://h/"), &format!("n{number}=x"), soon).expect("taken");
    }
    assert!(jar.iter().any(|cookie| cookie.name == "first"));

    // Kept by the application and put back.
    let mut again = CookieJar::new();
    jar.iter().cloned().for_each(|cookie| again.insert(cookie, soon));
    assert_eq!(again.header(&target("ws://h/"), soon), jar.header(&target("ws://h/"), soon));
}

#[test]
fn case_97_cookies_of_the_jar_and_of_the_application_are_one_header() {
    let mut jar = CookieJar::new();
    jar.set(&target("ws://h/"), "a=1", now()).expect("taken");
    let mut headers = Headers::new();
    headers.push("X", "y").expect("valid");
    headers.push("cookie", "mine=0").expect("valid");
    jar.add_to(&mut headers, &target("ws://h/"), now());
    assert_eq!(headers.iter().collect::<Vec<_>>(), [("X", "y"), ("Cookie", "mine=0; a=1")]);
    let before = headers.clone();
    jar.add_to(&mut headers, &target("ws://other/"), now());
    assert_eq!(headers, before);
}
