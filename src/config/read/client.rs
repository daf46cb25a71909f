//! Reads the server URL and the API key of client commands.

use std::net::SocketAddr;

use super::Reader;
use crate::config::{ClientConfig, on_this_machine, url_names_this_machine, without_brackets};

impl Reader<'_> {
    pub(super) fn client(&mut self) -> Option<ClientConfig> {
        let (named_by, url) = match self.layers.get("url") {
            Some(_) => ("url", self.url()),
            None => ("host", self.url_of_own_server()),
        };
        let api_key = self.api_key();
        let url = url?;
        self.keep_key_from_strangers(named_by, &url);
        Some(ClientConfig { url, api_key })
    }

    /// Returns the URL of a server on this machine with the same settings.
    fn url_of_own_server(&mut self) -> Option<String> {
        let port = self.port()?;
        if port == 0 {
            self.problem(
                "port",
                "is 0, which is any free port: name the server in ORDERLY_URL",
            );
            return None;
        }
        let host = self.read("host", |host| Ok(without_brackets(host).to_owned()))?;
        Some(match host.parse() {
            Ok(ip) => format!("http://{}", on_this_machine(SocketAddr::new(ip, port))),
            Err(_) => format!("http://{host}:{port}"),
        })
    }

    /// Refuses to send a key to another machine named by a file in the current folder, unless the key is in such a file
    /// too. Another user may have written the folder and would get the operator's key.
    fn keep_key_from_strangers(&mut self, named_by: &'static str, url: &str) {
        let layers = self.layers;
        let (Some(name), Some(key)) = (layers.get(named_by), layers.get("api_key")) else {
            return;
        };
        let is_from_elsewhere = key.from_named_file || !layers.is_of_folder(&key.origin);
        if layers.is_of_folder(&name.origin) && !url_names_this_machine(url) && is_from_elsewhere {
            self.problem(
                named_by,
                "names another machine in a file of the current folder, and the API key is not from such a file, so it is not sent \
                 there: name the server in ORDERLY_URL of the environment, or with --url",
            );
        }
    }
}
