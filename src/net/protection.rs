//! Refuses combinations of addresses and access rules that let in more clients than intended.

use std::net::IpAddr;

#[cfg(feature = "tls")]
use crate::Tls;
use crate::address::Address;
use crate::{Config, Error};

/// Refuses access rules that a server on these addresses may not have.
pub(crate) fn check_access(config: &Config, addresses: &[Address]) -> Result<(), Error> {
    for address in addresses {
        if let Address::Tcp(address) = address {
            check_exposure(address.ip(), config)?;
        }
    }
    let has_tcp = addresses.iter().any(|address| matches!(address, Address::Tcp(_)));
    let has_unix = addresses.iter().any(|address| matches!(address, Address::Unix(_)));
    check_users(config, has_tcp, has_unix)
}

pub(super) fn check_exposure(ip: IpAddr, config: &Config) -> Result<(), Error> {
    if ip.is_loopback() || is_protected(config) {
        return Ok(());
    }
    Err(Error::Unprotected { address: ip })
}

/// Refuses lists of users that a client could evade: the kernel tells the user of a Unix socket's
/// peer only, so a list does not keep anybody off TCP.
pub(super) fn check_users(config: &Config, has_tcp: bool, has_unix: bool) -> Result<(), Error> {
    if !config.access.asks_for_users() {
        return Ok(());
    }
    can_tell_users_apart(config)?;
    if !has_unix {
        return Err(Error::Config(
            "users can only be told apart on a Unix socket; configure one, or remove the list of \
             users"
                .to_owned(),
        ));
    }
    if has_tcp && !is_protected(config) {
        return Err(Error::Config(
            "a list of users does not keep anybody off the TCP port; listen on the Unix socket \
             alone, set a token for all applications, or say that it shall be insecure"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Returns whether a client that can reach a TCP address also needs a token or a certificate, or
/// the operator has waived both.
fn is_protected(config: &Config) -> bool {
    #[cfg(feature = "tls")]
    let asks_for_certificates = config.tls.as_ref().is_some_and(Tls::asks_for_certificates);
    #[cfg(not(feature = "tls"))]
    let asks_for_certificates = false;
    // Tokens for some applications do not count: they leave all others open.
    config.access.default.is_some() || config.insecure || asks_for_certificates
}

#[cfg(target_os = "linux")]
fn can_tell_users_apart(config: &Config) -> Result<(), Error> {
    super::user_namespace::check(&config.access)
}

#[cfg(not(target_os = "linux"))]
fn can_tell_users_apart(_: &Config) -> Result<(), Error> {
    Err(Error::Config("users can only be told apart on Linux; remove the list of users".to_owned()))
}
