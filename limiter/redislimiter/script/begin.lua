local U, P = struct.unpack, struct.pack
