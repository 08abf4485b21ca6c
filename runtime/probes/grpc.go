package probes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
)

// grpcCheck asks the service for its health (upstream, whose words these are: pkg/probe/grpc). That one is not used since
// it cannot be given up and bounds no answer.
func grpcCheck(ctx context.Context, a *v1.GRPCAction, t Target, limit time.Duration) (probe.Result, string, error) {
	host, err := t.host("")
	if err != nil {
		return probe.Unknown, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	address := net.JoinHostPort(host, strconv.Itoa(int(a.Port)))
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithUserAgent(agent("probe")),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithMaxHeaderListSize(maxHeader),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxOutput)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return probe.ProbeDialer().DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		return probe.Failure, fmt.Sprintf("error: failed to connect service at %q: %+v", address, err), nil
	}
	defer func() { _ = conn.Close() }()
	if err := connected(ctx, conn); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return probe.Failure, fmt.Sprintf("timeout: failed to connect service %q within %v: %+v", address, limit, err), nil
		}
		return probe.Failure, fmt.Sprintf("error: failed to connect service at %q: %+v", address, err), nil
	}
	service := ""
	if a.Service != nil {
		service = *a.Service
	}
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	switch status.Code(err) {
	case codes.OK:
	case codes.Unimplemented:
		return probe.Failure, "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + status.Convert(err).Message(), nil
	case codes.DeadlineExceeded:
		return probe.Failure, fmt.Sprintf("timeout: health rpc did not complete within %v", limit), nil
	default:
		return probe.Failure, fmt.Sprintf("error: health rpc probe failed: %+v", err), nil
	}
	if s := answer.GetStatus(); s != grpc_health_v1.HealthCheckResponse_SERVING {
		return probe.Failure, fmt.Sprintf("service unhealthy (responded with %q)", s.String()), nil
	}
	return probe.Success, "service healthy", nil
}

// connected waits for the connection; one that is refused is tried again until ctx ends.
func connected(ctx context.Context, conn *grpc.ClientConn) error {
	for conn.Connect(); ; {
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Idle:
			conn.Connect()
		}
		if !conn.WaitForStateChange(ctx, state) {
			return ctx.Err()
		}
	}
}
