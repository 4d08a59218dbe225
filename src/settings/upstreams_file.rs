//! The file of services and their endpoints: what `MCP_UPSTREAMS` has behind each `;` stands here on a line of its own.
//!
//! Lines and no TOML: it is the same form as the variable's, what makes such files (templates of Consul, Ansible, a shell) writes
//! lines, and there is nothing to nest.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use super::{parse::Parsed, upstreams::service, value::UpstreamService};

/// Largest file that is read, in bytes: thousands of servers.
const FILE_MAX: usize = 1 << 20;

/// A file of services, as it was read.
#[derive(Clone)]
pub struct UpstreamsFile {
    path: PathBuf,
    services: Vec<UpstreamService>,
}

impl fmt::Debug for UpstreamsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamsFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl UpstreamsFile {
    /// Reads one.
    ///
    /// # Errors
    /// All that is wrong with it, in words and without its values, which may be secrets.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|fault| fault.to_string())?;
        if text.len() > FILE_MAX {
            return Err(format!("it is larger than {FILE_MAX} bytes"));
        }
        Ok(Self { path: path.to_owned(), services: services(&text)? })
    }

    /// Reads it again.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_again(&self) -> Result<Self, String> {
        Self::read(&self.path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says; at least one.
    pub fn services(&self) -> &[UpstreamService] {
        &self.services
    }
}

/// Empty lines and those that begin with `#` say nothing; a line that ends with `,` goes on in the next one.
fn services(text: &str) -> Result<Vec<UpstreamService>, String> {
    let (mut services, mut faults) = (Vec::<UpstreamService>::new(), Vec::new());
    let (mut begun, mut entry) = (0, String::new());
    let mut take = |entry: &str, line: usize| match service(entry.trim_end_matches(';').trim_end()) {
        Ok(found) if services.iter().any(|known| known.name == found.name) => {
            faults.push(format!("line {line}: each service once ({} stands there twice)", found.name));
        }
        Ok(found) => services.push(found),
        Err(expected) => faults.push(format!("line {line}: {expected}")),
    };
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if entry.is_empty() {
            begun = at + 1;
        }
        entry.push_str(line);
        if !line.ends_with(',') {
            take(&std::mem::take(&mut entry), begun);
        }
    }
    if !entry.is_empty() {
        take(&entry, begun);
    }
    match (faults.is_empty(), services.is_empty()) {
        (false, _) => Err(faults.join("; ")),
        // Somebody is writing it, or has taken the wrong file. Nobody means to serve nothing.
        (true, true) => Err("there is no service in it: one name=url,url a line".to_owned()),
        (true, false) => Ok(services),
    }
}

/// Reads it where it is named, as all files that settings name.
pub(super) fn upstreams_file(text: &str) -> Parsed<UpstreamsFile> {
    UpstreamsFile::read(Path::new(text)).map_err(|fault| {
        format!("a readable file of services, one name=url,url a line (docs/operations.md#planned-work): {fault}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
        let of = |service: UpstreamService| {
            (service.name, service.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        services(text).map(|services| services.into_iter().map(of).collect())
    }

    #[test]
    fn one_service_a_line_which_goes_on_behind_a_comma() {
        let text = "# ours\n\nfiles=http://a/mcp,\n  http://b/mcp\n# theirs\r\n  search = http://c/sse ;\n";
        let (files, search) = (["http://a/mcp", "http://b/mcp"], ["http://c/sse"]);
        let expected = [("files", &files[..]), ("search", &search[..])]
            .map(|(name, urls)| (name.to_owned(), urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>()));
        assert_eq!(urls(text).unwrap(), expected);
    }

    #[test]
    fn all_that_is_wrong_is_told_by_its_line_and_no_value_of_it() {
        let wrong = "a=http://h/mcp\nSECRET\nb=ftp://SECRET@h\na=http://h/sse\nc=http://h,\n";
        let told = urls(wrong).unwrap_err();
        for line in ["line 2: ", "line 3: ", "line 4: each service once (a ", "line 5: "] {
            assert!(told.contains(line), "{told}");
        }
        assert!(!told.contains("line 1") && !told.contains("SECRET"), "{told}");
        for nothing in ["", "\n# all gone\n"] {
            assert!(urls(nothing).unwrap_err().contains("no service"));
        }
    }
}
