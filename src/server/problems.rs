//! Faults of a configuration that are found before anything is started.

use crate::{Config, Error, net};

impl Config {
    /// Returns all faults of the configuration that can be found without listening.
    ///
    /// ```
    /// use ipc_framework::Config;
    ///
    /// assert!(Config::default().problems().is_empty());
    /// let silent = Config::default().host(None);
    /// assert!(silent.problems()[0].to_string().contains("nothing to listen on"));
    /// ```
    pub fn problems(&self) -> Vec<Error> {
        self.own_problems().chain(net::problems(self)).collect()
    }
}
