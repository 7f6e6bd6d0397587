package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program that this run started. It dies with the driver, whatever ends the driver.
type process struct {
	name string
	cmd  *exec.Cmd
	// Closed when the program has ended; err is set before.
	ended chan struct{}
	err   error
}

// start runs a program with its output appended to `<dir>/<name>.log`.
func start(dir, name string, env []string, program string, args ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	fmt.Fprintf(log, "--- %s %s\n", program, strings.Join(args, " "))
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s does not start: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// kill ends the program as a power cut would, and returns when it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// stop asks the program to end and reports one that does not, or not cleanly.
func (p *process) stop(within time.Duration) error {
	if !p.running() {
		return fmt.Errorf("%s had ended before it was asked to: %v", p.name, p.err)
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		if p.err != nil {
			return fmt.Errorf("%s was asked to end and ended badly: %w", p.name, p.err)
		}
		return nil
	case <-time.After(within):
		p.kill()
		return fmt.Errorf("%s was asked to end and had not after %s", p.name, within)
	}
}

// child returns the pid of the direct child of `parent` that runs `program`, 0 when there is none.
func child(parent int, program string) int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// `pid (name) state ppid …`; the name may hold anything, also a parenthesis, and is cut at 15 bytes.
		open, shut := strings.IndexByte(string(text), '('), strings.LastIndexByte(string(text), ')')
		fields := strings.Fields(string(text[shut+1:]))
		if string(text[open+1:shut]) == program && fields[0] != "Z" && fields[1] == strconv.Itoa(parent) {
			pid, _ := strconv.Atoi(string(text[:open-1]))
			return pid
		}
	}
	return 0
}

// gone reports whether no program has this pid, or only one that is dead and not yet reaped.
func gone(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	return strings.HasPrefix(string(text[strings.LastIndexByte(string(text), ')')+1:]), " Z")
}

// freePort asks the system for a port of the loopback interface that nobody uses now.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// until polls a condition; when time is up, the error is the condition's last one.
func until(ctx context.Context, within time.Duration, what string, condition func(context.Context) error) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var last error
	for {
		err := condition(ctx)
		if err == nil {
			return nil
		}
		// The time-out hides what was wrong until then.
		if !errors.Is(err, context.DeadlineExceeded) || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not after %.1f s: %w", what, time.Since(began).Seconds(), last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
