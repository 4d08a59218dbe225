//! What every POST of this era has in its head.

use actix_http::{
    Method,
    header::{HeaderName, HeaderValue},
};

use crate::{
    protocol::modern,
    upstream::transport::http::{
        connection::Head,
        line::{EITHER_ANSWER, Line, OF_POST},
    },
};

const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(in crate::upstream) const METHOD: HeaderName = HeaderName::from_static("mcp-method");
pub(in crate::upstream) const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// Without what it is about. An error of this era may come with the status 404, and is read then, too.
pub(in crate::upstream) fn of_post(line: &Line) -> Head {
    let head = line.head(Method::POST, [OF_POST, EITHER_ANSWER]).reading_not_found();
    head.insert(VERSION, HeaderValue::from_static(modern::VERSION));
    head
}
