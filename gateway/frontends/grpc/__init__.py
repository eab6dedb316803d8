"""The gRPC front ends, one grpc.aio server."""
