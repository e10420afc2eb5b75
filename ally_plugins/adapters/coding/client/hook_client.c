/*
 * The hook client, compiled: what hook_client.py does, in a tenth of its time. That file says what each step is for and
 * is the reference where the two differ. `connect --client c` writes hook_table.h, which holds the table and the numbers
 * of that file, and compiles this one.
 *
 * It reads no JSON: the host's answer says how many bytes go to which stream. Nothing is allocated; a machine without
 * memory for its buffers starts no program, and then the shell of the hook's line closes the event.
 */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hook_table.h"

#define ENDS __attribute__((noreturn))

extern char **environ;

#define PATH_BYTES 4096
#define REASON_BYTES 4096
#define HEAD_BYTES 512
#define ARGUMENTS 256

static const char *agent = "", *event = "";
static char here[PATH_BYTES] = ".", base[PATH_BYTES], home_entry[PATH_BYTES];
static volatile sig_atomic_t is_answering;
static char request[HEAD_BYTES + MAX_BYTES + 1]; /* one byte more tells what is too long */
static char *const payload = request + HEAD_BYTES;
static char answer[MAX_BYTES + 1];
static char command[65536];

/* --- texts: cut where they do not fit; none of it may allocate, since the end of the time comes as a signal --- */

static void add_bytes(char *to, size_t room, const char *from, size_t count)
{
    size_t used = strlen(to);

    if (count > room - 1 - used)
        count = room - 1 - used;
    memcpy(to + used, from, count);
    to[used + count] = '\0';
}

static void add(char *to, size_t room, const char *from)
{
    add_bytes(to, room, from, strlen(from));
}

static void add_number(char *to, size_t room, long number)
{
    char digits[24];
    size_t at = sizeof digits;

    do
        digits[--at] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    add_bytes(to, room, digits + at, sizeof digits - at);
}

/* Return how many bytes the character at `text` has in UTF-8, 0 where it is none. */
static size_t character(const unsigned char *text)
{
    size_t count = text[0] < 0x80 ? 1 : text[0] >= 0xC2 && text[0] < 0xE0 ? 2 : text[0] >= 0xE0 && text[0] < 0xF0 ? 3
                   : text[0] >= 0xF0 && text[0] < 0xF5 ? 4 : 0;

    for (size_t at = 1; at < count; at++)
        if ((text[at] & 0xC0) != 0x80)
            return 0;
    /* too long a form, half of a pair, beyond the last one */
    if ((text[0] == 0xE0 && text[1] < 0xA0) || (text[0] == 0xED && text[1] > 0x9F)
        || (text[0] == 0xF0 && text[1] < 0x90) || (text[0] == 0xF4 && text[1] > 0x8F))
        return 0;
    return count;
}

static void add_quoted(char *to, size_t room, const char *from)
{
    add(to, room, "\"");
    while (*from != '\0') {
        size_t count = character((const unsigned char *)from);
        char code[] = "\\u0000";

        if (count == 0) {
            add(to, room, "?");
        } else if (*from == '"' || *from == '\\') {
            add(to, room, "\\");
            add_bytes(to, room, from, 1);
        } else if ((unsigned char)*from < 0x20) {
            code[4] = (char)('0' + *from / 16);
            code[5] = "0123456789abcdef"[*from % 16];
            add(to, room, code);
        } else {
            add_bytes(to, room, from, count);
        }
        from += count ? count : 1;
    }
    add(to, room, "\"");
}

/* --- the end --- */

ENDS static void end(int code, const char *out, size_t out_bytes, const char *err, size_t err_bytes)
{
    const char *texts[] = {err, out};
    size_t sizes[] = {err_bytes, out_bytes};
    int descriptors[] = {2, 1};

    is_answering = 1;
    for (int each = 0; each < 2; each++) {
        while (sizes[each] > 0) {
            ssize_t done = write(descriptors[each], texts[each], sizes[each]);

            if (done < 0 && errno == EINTR)
                continue;
            if (done < 0)
                _exit(2); /* half an answer is none */
            texts[each] += done;
            sizes[each] -= (size_t)done;
        }
    }
    _exit(code);
}

/* Close the event in the agent's way, or let an observing one pass; one that is not known is closed. */
ENDS static void close_event(const char *reason)
{
    char text[REASON_BYTES] = "ally-plugins: ", out[REASON_BYTES * 6 + 512] = "";
    const char *way = EXITS, *slot;

    add(text, sizeof text, reason);
    for (size_t at = 0; at < sizeof WAYS / sizeof *WAYS; at++)
        if (strcmp(WAYS[at][0], agent) == 0 && strcmp(WAYS[at][1], event) == 0)
            way = WAYS[at][2];
    if (strcmp(way, PASSES) == 0)
        end(0, "", 0, "", 0);
    if (strcmp(way, EXITS) == 0)
        end(2, "", 0, text, strlen(text));
    slot = strstr(way, "%s");
    if (slot == NULL)
        end(2, "", 0, text, strlen(text));
    add_bytes(out, sizeof out, way, (size_t)(slot - way));
    add_quoted(out, sizeof out, text);
    add(out, sizeof out, slot + 2);
    end(0, out, strlen(out), "", 0);
}

ENDS static void close_with(const char *reason, const char *detail, const char *rest)
{
    char text[REASON_BYTES] = "";

    add(text, sizeof text, reason);
    add(text, sizeof text, detail);
    add(text, sizeof text, rest);
    close_event(text);
}

static void too_late(int number)
{
    (void)number;
    if (is_answering)
        _exit(2); /* the agent does not take the answer */
    close_event(LATE);
}

static void watch(void)
{
    struct sigaction action = {.sa_handler = too_late};
    struct itimerval time_left = {.it_value = {MILLISECONDS / 1000, MILLISECONDS % 1000 * 1000}};
    sigset_t late;

    sigemptyset(&late);
    sigaddset(&late, SIGALRM);
    if (sigaction(SIGALRM, &action, NULL) != 0 || setitimer(ITIMER_REAL, &time_left, NULL) != 0
        || sigprocmask(SIG_UNBLOCK, &late, NULL) != 0) /* an agent may have it blocked, which its hooks inherit */
        close_with("the hook failed: ", strerror(errno), "");
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* ignored by the agent, it would hide how a host ended that was started */
}

/* --- the host --- */

static long milliseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void path_in(char *path, const char *folder, const char *name)
{
    path[0] = '\0';
    add(path, PATH_BYTES, folder);
    add(path, PATH_BYTES, "/");
    add(path, PATH_BYTES, name);
}

/* Return how many bytes of a file fit, and end them with a zero; -1 where it cannot be read. */
static ssize_t read_file(const char *path, char *to, size_t room, off_t from_end)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    struct stat found;
    ssize_t count = -1;

    if (descriptor < 0)
        return -1;
    if (fstat(descriptor, &found) == 0) {
        if (from_end > 0 && found.st_size > from_end)
            lseek(descriptor, found.st_size - from_end, SEEK_SET);
        count = read(descriptor, to, room - 1);
    }
    close(descriptor);
    if (count >= 0)
        to[count] = '\0';
    return count;
}

#ifndef MANAGED_HOME
static void find_home(void)
{
    path_in(base, here, "..");
}
#else
/* One client for all users of a machine: the home is below theirs, whatever the agent's environment says. */
static void find_home(void)
{
    struct passwd *person = getpwuid(geteuid());
    char path[PATH_BYTES];

    if (person == NULL)
        close_event("this user's home directory is not known");
    path_in(base, person->pw_dir, MANAGED_HOME);
    add(home_entry, sizeof home_entry, "HOME=");
    add(home_entry, sizeof home_entry, person->pw_dir);
    path_in(path, base, "run");
    for (char *at = path + 1; *at != '\0'; at++) {
        if (*at == '/') {
            *at = '\0';
            mkdir(path, 0700);
            *at = '/';
        }
    }
    mkdir(path, 0700);
}
#endif

static void add_kept(char **kept)
{
    static const char *const names[] = {KEPT};
    size_t count = 0;

    for (size_t at = 0; at < sizeof names / sizeof *names; at++) {
        size_t size = strlen(names[at]);

        if (home_entry[0] != '\0' && strcmp(names[at], "HOME") == 0) {
            kept[count++] = home_entry;
            continue;
        }
        for (char **entry = environ; *entry != NULL; entry++) {
            if (strncmp(*entry, names[at], size) == 0 && (*entry)[size] == '=') {
                kept[count++] = *entry;
                break;
            }
        }
    }
    kept[count] = NULL;
}

ENDS static void close_as_gone(const char *program)
{
    char text[REASON_BYTES] = GONE;

    add(text, sizeof text, program);
    add(text, sizeof text, " disconnect ");
    add(text, sizeof text, agent);
    close_event(text);
}

static pid_t start(const char *program)
{
    char path[PATH_BYTES], *arguments[ARGUMENTS + 1], *kept[64];
    struct stat found;
    size_t count = 0;
    pid_t child;
    int nowhere, log;

    path_in(path, here, STARTER);
    if (read_file(path, command, sizeof command, 0) > 0)
        for (char *at = command; at != NULL && count < ARGUMENTS; count++) {
            arguments[count] = at;
            if ((at = strchr(at, '\n')) != NULL)
                *at++ = '\0';
            if (at != NULL && *at == '\0')
                at = NULL; /* an editor ends the last line too */
        }
    arguments[count] = NULL;
    if (count == 0 || stat(arguments[0], &found) != 0)
        close_as_gone(program);
    add_kept(kept);
    child = fork();
    if (child < 0)
        close_with("the hook failed: ", strerror(errno), "");
    if (child > 0)
        return child;
    signal(SIGPIPE, SIG_DFL);
    setsid(); /* the agent may end its hooks with all that is in their group */
    nowhere = open("/dev/null", O_RDWR);
    log = open(LOG, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
    if (nowhere < 0 || log < 0 || dup2(nowhere, 0) < 0 || dup2(nowhere, 1) < 0 || dup2(log, 2) < 0)
        _exit(3);
    for (int descriptor = 3; descriptor < 256; descriptor++)
        close(descriptor);
    execve(arguments[0], arguments, kept);
    _exit(3);
}

ENDS static void close_with_last_words(const char *program)
{
    char words[401];
    ssize_t count = read_file(LOG, words, sizeof words, 400);
    size_t missing = strlen(MISSING);
    char *last;

    while (count > 0 && strchr(" \t\r\n", words[count - 1]) != NULL)
        words[--count] = '\0';
    if (count >= (ssize_t)missing && strcmp(words + count - missing, MISSING) == 0)
        close_as_gone(program);
    last = count > 0 ? strrchr(words, '\n') : NULL;
    close_with("the host cannot be started: ", count > 0 ? last != NULL ? last + 1 : words : "it says nothing", "");
}

/* Say whether a process of this user listens; where the system does not report it, the private folder counts. */
static int is_own(int connection)
{
#ifdef SO_PEERCRED
    unsigned peer[3] = {0, 0, 0}; /* `struct ucred`: process, user, group */
    socklen_t size = sizeof peer;

    return getsockopt(connection, SOL_SOCKET, SO_PEERCRED, peer, &size) == 0 && peer[1] == geteuid();
#else
    uid_t user;
    gid_t group;

    return getpeereid(connection, &user, &group) == 0 && user == geteuid();
#endif
}

static int connect_to_host(const char *program, long until)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET};
    struct timespec poll_time = {0, POLL_MILLISECONDS * 1000000L};
    char run[PATH_BYTES];
    pid_t child = 0;
    int status;

    path_in(run, base, "run");
    if (chdir(run) != 0) /* a path may be longer than a socket's address can be */
        close_with("its folder '", run, "' is gone; disconnect the agent, or connect it anew");
    for (;;) {
        int connection = socket(AF_UNIX, SOCK_STREAM, 0), found;

        if (connection < 0)
            close_with("the hook failed: ", strerror(errno), "");
        fcntl(connection, F_SETFD, FD_CLOEXEC);
        fcntl(connection, F_SETFL, O_NONBLOCK); /* with no room for another hook a blocking one would wait */
        if (connect(connection, (struct sockaddr *)&address, sizeof address) == 0) {
            if (!is_own(connection))
                close_event(FOREIGN);
            fcntl(connection, F_SETFL, 0);
            return connection;
        }
        found = errno;
        close(connection);
        if ((found == ENOENT || found == ECONNREFUSED) && child == 0)
            child = start(program);
        else if (found != ENOENT && found != ECONNREFUSED && found != EAGAIN && found != EINTR)
            close_with("the hook failed: ", strerror(found), "");
        if (milliseconds() > until)
            close_event(UNSTARTED);
        if (child > 0 && waitpid(child, &status, WNOHANG) == child) {
            child = -1; /* another hook's host may have been first, which ends ours with 0 */
            if (status != 0)
                close_with_last_words(program);
        }
        nanosleep(&poll_time, NULL);
    }
}

static size_t read_payload(void)
{
    size_t size = 0;

    for (;;) {
        ssize_t count = read(0, payload + size, MAX_BYTES + 1 - size);

        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            close_with("the hook failed: ", strerror(errno), "");
        if (count == 0)
            return size;
        size += (size_t)count;
        if (size > MAX_BYTES)
            close_event(TOO_LONG);
    }
}

static void send_all(int connection, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t done = send(connection, bytes, size, 0);

        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            close_with("the hook failed: ", strerror(errno), "");
        bytes += done;
        size -= (size_t)done;
    }
}

/* Return the number at `*at`, which `last` ends, and move behind that; -1 where there is none. */
static long number(const char **at, char last)
{
    const char *from = *at;
    long found = 0;

    for (; **at >= '0' && **at <= '9' && *at - from < 9; ++*at)
        found = found * 10 + (**at - '0');
    return *at == from || *(*at)++ != last ? -1 : found;
}

ENDS static void print_answer(int connection)
{
    const char *at = answer + strlen(MAGIC);
    size_t size = 0;
    long code, out, err;

    while (size < sizeof answer) {
        ssize_t count = recv(connection, answer + size, sizeof answer - size, 0);

        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            close_with("the hook failed: ", strerror(errno), "");
        if (count == 0)
            break;
        size += (size_t)count;
    }
    if (size == 0)
        close_event(SILENT);
    /* The last byte of the buffer is beyond what is taken, so that a number always meets an end. */
    if (size >= sizeof answer)
        close_event(NONSENSE);
    answer[size] = '\0';
    if (strncmp(answer, MAGIC " ", strlen(MAGIC) + 1) != 0)
        close_event(NONSENSE);
    at++;
    code = number(&at, ' ');
    out = code < 0 ? -1 : number(&at, ' ');
    err = out < 0 ? -1 : number(&at, '\n');
    if (err < 0 || (code != 0 && code != 2) || (size_t)out + (size_t)err != size - (size_t)(at - answer))
        close_event(NONSENSE);
    end((int)code, at, (size_t)out, at + out, (size_t)err);
}

ENDS static void ask(const char *program)
{
    long until = milliseconds() + HOST_MILLISECONDS, left;
    char head[HEAD_BYTES] = MAGIC " ";
    size_t size = read_payload();
    struct timeval limit;
    int connection;

    find_home();
    connection = connect_to_host(program, until);
    left = until - milliseconds();
    left = left < 1 ? 1 : left;
    add(head, sizeof head, agent);
    add(head, sizeof head, " ");
    add(head, sizeof head, event);
    add(head, sizeof head, " ");
    add_number(head, sizeof head, (long)size);
    add(head, sizeof head, " ");
    add_number(head, sizeof head, left);
    add(head, sizeof head, "\n");
    limit.tv_sec = left / 1000 + 1;
    limit.tv_usec = 0;
    if (setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0
        || setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) != 0)
        close_with("the hook failed: ", strerror(errno), "");
    memcpy(payload - strlen(head), head, strlen(head)); /* in front, so that both are sent at once */
    send_all(connection, payload - strlen(head), strlen(head) + size);
    print_answer(connection);
}

int main(int count, char **arguments)
{
    const char *program = count > 0 ? arguments[0] : "hook", *slash = strrchr(program, '/');

    for (int descriptor = 0; descriptor < 3; descriptor++)
        if (fcntl(descriptor, F_GETFD) < 0)
            _exit(2); /* what is opened next would be taken for it */
    agent = count > 1 ? arguments[1] : "";
    event = count > 2 ? arguments[2] : "";
    if (slash != NULL) {
        here[0] = '\0';
        add_bytes(here, sizeof here, program, (size_t)(slash - program));
    }
    if (strcmp(agent, "disconnect") == 0) {
        char path[PATH_BYTES];

        path_in(path, here, PYTHON_CLIENT);
        execv(path, arguments);
        close_with("the hooks cannot be taken out: ", path, " does not run");
    }
    if (count != 3)
        close_event("expected an agent and an event");
    watch();
    ask(program);
    return 2;
}
