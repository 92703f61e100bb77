package testkit

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// smallDiskEnv says that this is the process that may mount.
const smallDiskEnv = "KELPIE_TEST_SMALL_DISK"

// OnSmallDisk runs a test in the folder of a file system of its own, of a size such
// as "2m", which it may fill; it closes what it opened there before it ends. Who is
// not root may mount none: then the same test is run by a process that is root in a
// user namespace of its own, and this one passes if that one does. Where neither is
// allowed the test fails, because nothing would be proved.
func OnSmallDisk(t *testing.T, size string, test func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("kelpie-test", dir, "tmpfs", 0, "size="+size)
	switch {
	case errors.Is(err, syscall.EPERM) && os.Getenv(smallDiskEnv) == "":
		inNamespace(t)
		return
	case err != nil:
		t.Fatalf("mount a file system of %s on %s: %v; the proof of a full disk needs one: %s", size, dir, err, howToMount)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	test(dir)
}

const howToMount = "run the tests as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1 or user.max_user_namespaces, " +
	"kernel.apparmor_restrict_unprivileged_userns=0; in a container, a seccomp profile that lets unshare and mount through)"

// inNamespace runs the calling test in a process that may mount.
func inNamespace(t *testing.T) {
	t.Helper()
	if strings.Contains(t.Name(), "/") {
		t.Fatal("only a whole test can be run by another process")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), smallDiskEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		t.Fatalf("in a user namespace: %v\n%s", err, out)
	case err != nil:
		t.Fatalf("this user may not mount a file system, and a user namespace cannot be made: %v; the proof of a full disk needs one: %s", err, howToMount)
	case !strings.Contains(string(out), "--- PASS: "+t.Name()+" "):
		t.Fatalf("%s ran no such test:\n%s", filepath.Base(self), out)
	}
	t.Logf("in a user namespace:\n%s", out)
}
