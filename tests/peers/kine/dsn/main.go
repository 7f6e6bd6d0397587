// Prints how kine reads the endpoints on standard input, one a line, as JSON. The result is
// endpoints.json, with which a unit test of src/cli/endpoint compares jetway's own reading:
//
//	cd tests/peers/kine && go run -tags nats ./dsn <dsn/endpoints.txt >dsn/endpoints.json
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"
	_ "unsafe"

	_ "github.com/k3s-io/kine/pkg/drivers/nats"
	"github.com/k3s-io/kine/pkg/tls"
	"github.com/k3s-io/kine/pkg/util"
	"github.com/nats-io/nats.go"
)

// The fields of kine's own type, in its order.
type config struct {
	clientURL     string
	clientOptions []nats.Option
	revHistory    uint8
	bucket        string
	replicas      int
	slowThreshold time.Duration
	noEmbed       bool
	dontListen    bool
	serverConfig  string
	stdoutLogging bool
	host          string
	port          int
	dataDir       string
}

// kine does not export its parser.
//
//go:linkname parseConnection github.com/k3s-io/kine/pkg/drivers/nats.parseConnection
func parseConnection(dsn string, tlsInfo tls.Config) (*config, error)

type reading struct {
	Endpoint     string `json:"endpoint"`
	Error        string `json:"error,omitempty"`
	Embedded     bool   `json:"embedded,omitempty"`
	URL          string `json:"url,omitempty"`
	User         string `json:"user,omitempty"`
	Password     string `json:"password,omitempty"`
	Token        string `json:"token,omitempty"`
	Credentials  bool   `json:"credentials,omitempty"`
	Bucket       string `json:"bucket,omitempty"`
	Replicas     int    `json:"replicas,omitempty"`
	SlowMethodMs int64  `json:"slow_method_ms,omitempty"`
	ServerConfig string `json:"server_config,omitempty"`
	DataDir      string `json:"data_dir,omitempty"`
}

func read(endpoint string) reading {
	result := reading{Endpoint: endpoint}
	scheme, address := util.SchemeAndAddress(endpoint)
	dsn := endpoint
	switch scheme {
	case "nats":
	case "jetstream":
		dsn = address
	default:
		result.Error = "no driver of this name"
		return result
	}
	config, err := parseConnection(dsn, tls.Config{})
	if err != nil {
		result.Error = err.Error()
		return result
	}
	options := nats.GetDefaultOptions()
	for _, option := range config.clientOptions {
		if err := option(&options); err != nil {
			result.Error = err.Error()
			return result
		}
	}
	result.Embedded = scheme == "nats" && !config.noEmbed
	result.URL = config.clientURL
	result.User, result.Password, result.Token = options.User, options.Password, options.Token
	result.Credentials = options.UserJWT != nil
	result.Bucket, result.Replicas = config.bucket, config.replicas
	result.SlowMethodMs = config.slowThreshold.Milliseconds()
	result.ServerConfig, result.DataDir = config.serverConfig, config.dataDir
	return result
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	readings := []reading{}
	for lines.Scan() {
		readings = append(readings, read(lines.Text()))
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(readings); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
