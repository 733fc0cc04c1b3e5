//! The initial cluster: member names and their peer URLs, as a new member is told them.
//!
//! Owns the `name=url,name=url` syntax and the checks a bootstrap makes before it trusts the list. Used once,
//! by a member without a data directory. Follows `client/pkg/types/urlsmap.go` and
//! `server/config/config.go`; name resolution is passed in, so nothing here touches the network.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use super::{ConfigError, Url, refuse, url};

/// How an initial cluster without members is written.
pub const EMPTY_CLUSTER: &str = ",";

/// Members in order of name, each with its URLs in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialCluster(BTreeMap<String, Vec<Url>>);

impl InitialCluster {
    pub fn single(name: &str, urls: &[Url]) -> Self {
        Self(BTreeMap::from([(name.to_owned(), urls.to_vec())]))
    }

    /// A name that appears several times has several URLs. Empty items are skipped.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let (name, url) = item.split_once('=').unwrap_or((item, ""));
            members.entry(name.trim().to_owned()).or_default().push(Url::parse(url)?);
        }
        for urls in members.values_mut() {
            urls.sort_by_cached_key(Url::to_string);
        }
        Ok(Self(members))
    }

    pub fn members(&self) -> impl Iterator<Item = (&str, &[Url])> {
        self.0.iter().map(|(name, urls)| (name.as_str(), urls.as_slice()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn urls_of(&self, name: &str) -> Option<&[Url]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// No two members share a URL, and this member is listed under its name.
    pub fn verify(&self, own_name: &str) -> Result<(), ConfigError> {
        let mut seen = HashSet::new();
        if !self.0.values().flatten().all(|url| seen.insert(url)) {
            return refuse(format!("initial cluster {self} has duplicate url"));
        }
        match self.0.contains_key(own_name) {
            true => Ok(()),
            false => {
                refuse(format!("couldn't find local name {own_name:?} in the initial cluster configuration"))
            }
        }
    }

    /// This member's entry is what it advertises, after `resolve` has replaced names by addresses.
    pub fn verify_advertised(
        &self,
        own_name: &str,
        advertised: &[Url],
        resolve: impl Fn(&Url) -> String,
    ) -> Result<(), ConfigError> {
        let listed = self.urls_of(own_name).unwrap_or_default();
        let resolved = |urls: &[Url]| {
            let mut pairs: Vec<_> = urls.iter().map(|url| (resolve(url), url.to_string())).collect();
            pairs.sort();
            pairs
        };
        let (ours, theirs) = (resolved(advertised), resolved(listed));
        let difference = if ours.len() != theirs.len() {
            format!("len({}) != len({})", quoted(advertised), quoted(listed))
        } else {
            match ours.iter().zip(&theirs).find(|(a, b)| a.0 != b.0) {
                None => return Ok(()),
                Some((a, b)) => {
                    format!("{:?}(resolved from {:?}) != {:?}(resolved from {:?})", a.0, a.1, b.0, b.1)
                }
            }
        };
        let missing: Vec<String> = listed
            .iter()
            .filter(|url| !advertised.contains(url))
            .map(|url| format!("{own_name}={url}"))
            .collect();
        if !missing.is_empty() {
            return refuse(format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={} ({difference})",
                missing.join(","),
                url::join(advertised)
            ));
        }
        let unlisted: Vec<Url> = advertised.iter().filter(|url| !listed.contains(url)).cloned().collect();
        refuse(format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
            url::join(&unlisted),
            Self::single(own_name, listed)
        ))
    }
}

impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self
            .members()
            .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
            .collect();
        f.write_str(&pairs.join(","))
    }
}

fn quoted(urls: &[Url]) -> String {
    let quoted: Vec<String> = urls.iter().map(|url| format!("\"{url}\"")).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(text: &str) -> Vec<Url> {
        url::parse_list(text).unwrap()
    }

    #[test]
    fn repeated_names_gather_urls() {
        let cluster = InitialCluster::parse("b=http://b:1,a=http://a:2,a=http://a:1,").unwrap();
        assert_eq!(cluster.to_string(), "a=http://a:1,a=http://a:2,b=http://b:1");
        assert_eq!(cluster.len(), 2);
        assert_eq!(cluster.urls_of("a").unwrap(), urls("http://a:1,http://a:2"));
    }

    #[test]
    fn rules_have_etcds_texts() {
        let cluster = InitialCluster::parse("a=http://h:9,default=http://h:1,b=http://h:1").unwrap();
        assert_eq!(
            cluster.verify("default").unwrap_err().0,
            "initial cluster a=http://h:9,b=http://h:1,default=http://h:1 has duplicate url"
        );
        let cluster = InitialCluster::parse("foo=http://h:1").unwrap();
        assert_eq!(
            cluster.verify("default").unwrap_err().0,
            "couldn't find local name \"default\" in the initial cluster configuration"
        );
        assert_eq!(
            InitialCluster::parse("default").unwrap_err().0,
            "URL scheme must be http, https, unix, or unixs: "
        );
    }

    #[test]
    fn own_entry_must_match_what_is_advertised() {
        let verify = |cluster: &str, advertised: &str| {
            InitialCluster::parse(cluster)
                .unwrap()
                .verify_advertised("default", &urls(advertised), |url| {
                    url.to_string().replace("localhost", "127.0.0.1")
                })
                .map_err(|e| e.0)
        };
        assert_eq!(verify("default=http://localhost:1", "http://127.0.0.1:1"), Ok(()));
        assert_eq!(
            verify("default=http://127.0.0.1:23999", "http://127.0.0.1:23991").unwrap_err(),
            "--initial-cluster has default=http://127.0.0.1:23999 but missing from \
             --initial-advertise-peer-urls=http://127.0.0.1:23991 \
             (\"http://127.0.0.1:23991\"(resolved from \"http://127.0.0.1:23991\") != \
             \"http://127.0.0.1:23999\"(resolved from \"http://127.0.0.1:23999\"))"
        );
        assert_eq!(
            verify("default=http://h:1,default=http://h:2", "http://h:1").unwrap_err(),
            "--initial-cluster has default=http://h:2 but missing from --initial-advertise-peer-urls=http://h:1 \
             (len([\"http://h:1\"]) != len([\"http://h:1\" \"http://h:2\"]))"
        );
        assert_eq!(
            verify("default=http://h:1", "http://h:1,http://h:2").unwrap_err(),
            "--initial-advertise-peer-urls has http://h:2 but missing from --initial-cluster=default=http://h:1"
        );
    }
}
