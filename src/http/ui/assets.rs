//! The files of the dashboard, as `ui/build.mjs` makes them; compiled into the router.

use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

/// One file, in the three forms in which it may be asked for.
#[derive(Debug)]
pub(super) struct Asset {
    pub name: &'static str,
    pub media_type: &'static str,
    pub plain: &'static [u8],
    pub brotli: &'static [u8],
    pub gzip: &'static [u8],
    tag: OnceLock<String>,
}

macro_rules! asset {
    ($name:literal, $media_type:literal) => {
        Asset {
            name: $name,
            media_type: $media_type,
            plain: include_bytes!(concat!("dist/", $name)),
            brotli: include_bytes!(concat!("dist/", $name, ".br")),
            gzip: include_bytes!(concat!("dist/", $name, ".gz")),
            tag: OnceLock::new(),
        }
    };
}

/// All of them.
pub(super) static ASSETS: [Asset; 5] = [
    asset!("index.html", "text/html; charset=utf-8"),
    asset!("app.js", "text/javascript; charset=utf-8"),
    asset!("style.css", "text/css; charset=utf-8"),
    asset!("icon.svg", "image/svg+xml"),
    asset!("licences.txt", "text/plain; charset=utf-8"),
];

impl Asset {
    /// The one with this name; the page itself has none.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        let name = if name.is_empty() { "index.html" } else { name };
        ASSETS.iter().find(|asset| asset.name == name)
    }

    /// Of what it holds, whatever the form.
    pub(super) fn tag(&self) -> &str {
        self.tag.get_or_init(|| data_encoding::HEXLOWER.encode(&Sha256::digest(self.plain)[..8]))
    }
}
