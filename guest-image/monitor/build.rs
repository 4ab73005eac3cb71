//! Makes an image of the program where the environment says `QUIRE_IMAGE=1`.

#[path = "../board/build/image.rs"]
mod image;

fn main() {
    image::link();
}
