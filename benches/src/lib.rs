//! pinfold
