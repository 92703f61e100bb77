package server

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec
	"google.golang.org/grpc/mem"
)

// codec is grpc's own, save that some messages reach their handlers though
// they could not be decoded: grpc would answer them with an error by itself.
type codec struct {
	encoding.CodecV2

	undecodable func(v any) bool
	count       func()
}

func newCodec(undecodable func(v any) bool, count func()) encoding.CodecV2 {
	return codec{encoding.GetCodecV2("proto"), undecodable, count}
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	if err == nil || !c.undecodable(v) {
		return err //nolint:wrapcheck // grpc words it as a status.
	}
	c.count()
	return nil
}
