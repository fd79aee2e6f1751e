"""What every page is built from: tables, drawings, words, and the frame around them."""
