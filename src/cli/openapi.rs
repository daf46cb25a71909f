//! `orderly openapi`: prints the document that a server answers at `/openapi.json`, with an optional key.

use super::failure::Failure;
use super::{Verdict, output};

pub fn run() -> Result<Verdict, Failure> {
    output::json(&crate::http::document())?;
    Ok(Verdict::Good)
}
