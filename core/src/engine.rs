//! stub
/// stub
#[derive(Debug)]
pub struct Engine;
