//! What the server says about itself: the OpenAPI document, its page (Swagger UI, everything on board), a page that
//! shows orders as they change, and the pages of the problem types.

use std::sync::{Arc, LazyLock};

use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::response::Response;
use utoipa_swagger_ui::{Config, SwaggerFile};

use super::openapi;
use super::problem::{Problem, ProblemBody, ProblemType};

/// Rendered once: neither changes while the process lives.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let document = openapi::document().to_pretty_json();
    document.expect("strings and numbers always serialize").into()
});
/// A page that follows the orders of the server it comes from; see examples/live.
const LIVE_NAME: &str = "live.html";
const LIVE_PAGE: &str = include_str!("../../examples/live/live.html");
static VIEWER: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| Arc::new(Config::from("/openapi.json")));

/// This document
#[utoipa::path(get, operation_id = "readOpenApi", path = "/openapi.json", tag = "documentation",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub async fn openapi() -> Response {
    text("application/json", DOCUMENT.clone())
}

/// This document, for people
#[utoipa::path(get, operation_id = "readDocs", path = "/docs", tag = "documentation",
    responses((status = 200, description = "A page that works offline", body = String, content_type = "text/html")))]
pub async fn page() -> Result<Response, Problem> {
    let page = asset("index.html")?;
    let html = std::str::from_utf8(&page.bytes).map_err(Problem::unexpected)?;
    // The page names its files relative to a folder, and this path is not one.
    let html = html.replacen("<head>", "<head>\n    <base href=\"/docs/\">", 1);
    Ok(text("text/html; charset=utf-8", html))
}

/// A file of the documentation page
///
/// `live.html` shows orders as they change.
#[utoipa::path(get, operation_id = "readDocsFile", path = "/docs/{file}", tag = "documentation",
    params(("file" = String, Path)),
    responses(
        (status = 200, description = "The file", body = String),
        (status = 404, description = "No such file", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn file(name: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let Path(name) = name.map_err(|_| no_page())?;
    if name == LIVE_NAME {
        return Ok(text("text/html; charset=utf-8", LIVE_PAGE));
    }
    let file = asset(&name)?;
    let content_type = HeaderValue::try_from(file.content_type).map_err(Problem::unexpected)?;
    let mut response = Response::new(Body::from(file.bytes.into_owned()));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    if file.gzpipped {
        let gzip = HeaderValue::from_static("gzip");
        response.headers_mut().insert(CONTENT_ENCODING, gzip);
    }
    Ok(response)
}

/// The types of problems
#[utoipa::path(get, operation_id = "listProblemTypes", path = "/problems", tag = "documentation",
    responses((status = 200, description = "One line per type", body = String, content_type = "text/plain")))]
pub async fn problems() -> Response {
    let lines = ProblemType::ALL.map(|kind| {
        let status = kind.status().as_u16();
        format!("/problems/{} {status} {}\n", kind.slug(), kind.title())
    });
    text("text/plain; charset=utf-8", lines.concat())
}

/// What a type of problem means
#[utoipa::path(get, operation_id = "readProblemType", path = "/problems/{type}", tag = "documentation",
    params(("type" = String, Path)),
    responses(
        (status = 200, description = "Markdown", body = String, content_type = "text/plain"),
        (status = 404, description = "No such type", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn problem(slug: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let Path(slug) = slug.map_err(|_| no_page())?;
    let kind = ProblemType::of_slug(&slug).ok_or_else(no_page)?;
    // Plain text, since browsers show that and only offer to save Markdown.
    Ok(text("text/plain; charset=utf-8", kind.page()))
}

/// The answer to every path that no route has.
pub async fn nothing_here() -> Problem {
    Problem::new(
        ProblemType::NotFound,
        "no route has this path; /docs lists all routes",
    )
}

fn asset(name: &str) -> Result<SwaggerFile<'static>, Problem> {
    let file = utoipa_swagger_ui::serve(name, VIEWER.clone());
    file.map_err(|error| Problem::unexpected(std::io::Error::other(error.to_string())))?
        .ok_or_else(no_page)
}

fn no_page() -> Problem {
    Problem::new(ProblemType::NotFound, "there is no such page")
}

fn text(content_type: &'static str, text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
