//go:build !linux

package control

import (
	"context"
	"errors"
	"fmt"
)

// A Client is for Linux.
type Client struct{}

// Dial refuses: the daemon is on the Linux side.
func Dial(context.Context, Options) (*Client, error) {
	return nil, fmt.Errorf("the daemon: %w on this system: it is for the Linux side", errors.ErrUnsupported)
}

// Do is never called, as there is no Client.
func (c *Client) Do(context.Context, Request) (*Response, error) { return nil, errors.ErrUnsupported }

// Close does nothing.
func (c *Client) Close() {}
