//! Factories in a configuration.

use std::sync::Arc;

use super::{CertificateCheck, SocketFactory};
use crate::address::{Address, is_factory_name};
use crate::config::ConfigBuilder;
use crate::error::ConfigError;

/// The factories of a configuration.
#[derive(Clone, Default)]
pub(crate) struct Factories {
    /// For addresses that name none.
    every: Option<Arc<dyn SocketFactory>>,
    named: Vec<(Box<str>, Arc<dyn SocketFactory>)>,
    pub(crate) check: Option<Arc<CertificateCheck>>,
}

impl Factories {
    pub(crate) fn find(&self, address: &Address) -> Option<&Arc<dyn SocketFactory>> {
        match address.factory() {
            // These bring their own sockets: they need datagrams.
            _ if address.wire().is_udp() => None,
            None => self.every.as_ref(),
            Some(name) => {
                self.named.iter().find(|(known, _)| **known == *name).map(|(_, found)| found)
            }
        }
    }

    pub(crate) fn check(self) -> Result<Factories, ConfigError> {
        let mut names: Vec<&str> = self.named.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        let bad = names.iter().copied().find(|name| !is_factory_name(name));
        if let Some(name) = bad.or(twice) {
            return Err(ConfigError::OutOfRange {
                option: "named_socket_factory",
                value: name.to_owned(),
                range: "letters, digits, `-` and `.`, beginning with a letter, each name once",
            });
        }
        Ok(self)
    }
}

/// Socket factories; see [`socket_factory`](crate::socket_factory).
impl ConfigBuilder {
    /// Opens everything that is dialed, but addresses that name another factory, by this one. Default: the system's sockets.
    pub fn socket_factory(mut self, factory: Arc<dyn SocketFactory>) -> Self {
        self.factories.every = Some(factory);
        self
    }

    /// Opens addresses that begin with `name+`, such as `name+tcp://host`, by this factory. Names are letters, digits, `-`
    /// and `.`, in any case.
    pub fn named_socket_factory(
        mut self,
        name: impl AsRef<str>,
        factory: Arc<dyn SocketFactory>,
    ) -> Self {
        self.factories.named.push((name.as_ref().to_ascii_lowercase().into(), factory));
        self
    }

    /// Asks this check about certificates that factories with TLS of their own were shown: DER, and the host's name. It
    /// runs on the factory's thread. With a check, a factory with another framing than
    /// [`Framing::Bytes`](crate::socket_factory::Framing::Bytes) has to show one before it opens an encrypted wire.
    /// Default: the factory decides.
    pub fn socket_factory_certificate(
        mut self,
        check: impl Fn(&[u8], &str) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.factories.check = Some(Arc::new(check));
        self
    }
}
