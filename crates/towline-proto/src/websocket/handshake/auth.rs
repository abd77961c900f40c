//! Who the client is: Basic (RFC 7617) and bearer tokens (RFC 6750).

use base64::Engine;

use super::super::http::HeaderError;

/// What to show to a server or a proxy. Not shown in debug output.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user, without a colon, and a password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Bearer(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.scheme())
    }
}

impl Credentials {
    /// The name of the scheme.
    pub fn scheme(&self) -> &'static str {
        match self {
            Credentials::Basic { .. } => "Basic",
            Credentials::Bearer(_) => "Bearer",
        }
    }

    /// The value of `Authorization` or `Proxy-Authorization`.
    ///
    /// # Errors
    /// When the user has a colon (RFC 7617 section 2), or the token is not one (RFC 6750 section 2.1).
    pub fn header_value(&self) -> Result<String, HeaderError> {
        let invalid = || HeaderError { name: "Authorization".into() };
        match self {
            Credentials::Basic { user, password } => {
                if user.contains(':') || user.chars().chain(password.chars()).any(char::is_control)
                {
                    return Err(invalid());
                }
                let pair =
                    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                Ok(format!("Basic {pair}"))
            }
            Credentials::Bearer(token) => {
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
                if token.is_empty() || !token.bytes().all(fits) {
                    return Err(invalid());
                }
                Ok(format!("Bearer {token}"))
            }
        }
    }
}
