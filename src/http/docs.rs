//! The server's own documentation: the OpenAPI document, its page (Swagger UI, bundled), a page that shows orders as
//! they change, and the pages of the problem types.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use utoipa_swagger_ui::{Config, SwaggerFile};

use super::call::Call;
use super::problem::{Problem, ProblemBody, ProblemType};

/// Rendered once; constant while the process lives.
static PROBLEMS: LazyLock<Bytes> = LazyLock::new(|| {
    let lines = ProblemType::ALL.map(|kind| {
        let status = kind.status().as_u16();
        format!("/problems/{} {status} {}\n", kind.slug(), kind.title())
    });
    lines.concat().into()
});
const HTML: &str = "text/html; charset=utf-8";
const PAGE: &str = include_str!("docs/page.html");
/// Page that follows the orders of this server; see examples/live.
const LIVE_NAME: &str = "live.html";
const LIVE_PAGE: &str = include_str!("../../examples/live/live.html");
/// Replaces the file of this name that comes with the viewer.
const INITIALIZER_NAME: &str = "swagger-initializer.js";
const INITIALIZER: &str = include_str!("docs/initializer.js");
static VIEWER: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| Arc::new(Config::from("/openapi.json")));

/// Go to the documentation
#[utoipa::path(get, operation_id = "readRoot", path = "/", tag = "documentation", security(()),
    responses((status = 302, description = "Redirects to /docs", headers(("Location" = String)))))]
pub async fn root(_call: Call) -> Result<Response, Problem> {
    Ok(redirect())
}

fn redirect() -> Response {
    let mut response = text("text/plain; charset=utf-8", "the documentation is at /docs\n");
    *response.status_mut() = StatusCode::FOUND;
    response
        .headers_mut()
        .insert(LOCATION, HeaderValue::from_static("/docs"));
    response
}

/// Go to the documentation page
#[utoipa::path(get, operation_id = "readDocsFolder", path = "/docs/", tag = "documentation", security(()),
    responses((status = 302, description = "Redirects to /docs", headers(("Location" = String)))))]
pub async fn folder(_call: Call) -> Result<Response, Problem> {
    Ok(redirect())
}

/// Read the OpenAPI document
#[utoipa::path(get, operation_id = "readOpenApi", path = "/openapi.json", tag = "documentation", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub async fn openapi(call: Call) -> Result<Response, Problem> {
    Ok(text("application/json", Bytes::clone(&call.shared.document)))
}

/// Read the documentation in a browser
#[utoipa::path(get, operation_id = "readDocs", path = "/docs", tag = "documentation", security(()),
    responses((status = 200, description = "A page that works offline", body = String, content_type = "text/html")))]
pub async fn page(_call: Call) -> Result<Response, Problem> {
    Ok(text(HTML, PAGE))
}

/// Read a file of the documentation page
///
/// `live.html` shows orders as they change.
#[utoipa::path(get, operation_id = "readDocsFile", path = "/docs/{file}", tag = "documentation", security(()),
    params(("file" = String, Path)),
    responses(
        (status = 200, description = "The file", body = String),
        (status = 404, description = "No such file", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn file(call: Call) -> Result<Response, Problem> {
    let name = call.parameter.ok_or_else(no_page)?;
    served(&name)
}

fn served(name: &str) -> Result<Response, Problem> {
    match name {
        LIVE_NAME => return Ok(text(HTML, LIVE_PAGE)),
        INITIALIZER_NAME => return Ok(text("text/javascript; charset=utf-8", INITIALIZER)),
        _ => {}
    }
    let file = asset(name)?;
    let content_type = HeaderValue::try_from(file.content_type).map_err(Problem::unexpected)?;
    // Borrowed from the program, not copied per request: slow readers cost the server no memory.
    let bytes = match file.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    let mut response = text("", bytes);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    if file.gzpipped {
        let gzip = HeaderValue::from_static("gzip");
        response.headers_mut().insert(CONTENT_ENCODING, gzip);
    }
    Ok(response)
}

/// List the problem types
#[utoipa::path(get, operation_id = "listProblemTypes", path = "/problems", tag = "documentation", security(()),
    responses((status = 200, description = "One line per type", body = String, content_type = "text/plain")))]
pub async fn problems(_call: Call) -> Result<Response, Problem> {
    Ok(text("text/plain; charset=utf-8", PROBLEMS.clone()))
}

/// Read the page of a problem type
#[utoipa::path(get, operation_id = "readProblemType", path = "/problems/{type}", tag = "documentation", security(()),
    params(("type" = String, Path)),
    responses(
        (status = 200, description = "Markdown", body = String, content_type = "text/plain"),
        (status = 404, description = "No such type", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn problem(call: Call) -> Result<Response, Problem> {
    let slug = call.parameter.ok_or_else(no_page)?;
    let kind = ProblemType::of_slug(&slug).ok_or_else(no_page)?;
    // Plain text: browsers show it, but only offer to save Markdown.
    Ok(text("text/plain; charset=utf-8", kind.page()))
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
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    // The content changes only with the program, but a cache cannot know when.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn bytes_of(name: &str) -> Bytes {
        let Ok(response) = served(name) else {
            panic!("there is no {name}");
        };
        let frame = response.into_body().frame().await.unwrap().unwrap();
        frame.into_data().unwrap()
    }

    /// A slow client keeps each of its answers in memory.
    #[tokio::test]
    async fn a_file_of_the_page_is_not_copied_for_each_request() {
        for name in ["swagger-ui-bundle.js", "index.css", LIVE_NAME] {
            let (one, other) = (bytes_of(name).await, bytes_of(name).await);
            assert_eq!(one.as_ptr(), other.as_ptr(), "{name}");
        }
    }
}
