/* A PKCS#11 module over SoftHSM that crashes, hangs or lies where it is told to: WAYS is a list of the words below. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ULONG;
typedef unsigned char BYTE;
typedef ULONG (*FUNCTION)();

typedef struct { BYTE version[2]; FUNCTION at[68]; } FUNCTION_LIST;
typedef struct { ULONG type; void *value; ULONG length; } ATTRIBUTE;

/* Places in CK_FUNCTION_LIST, in the order of the standard. */
enum {
    INITIALIZE = 0, FINALIZE = 1, GET_INFO = 2, GET_FUNCTION_LIST = 3, GET_TOKEN_INFO = 6, GET_MECHANISM_LIST = 7,
    OPEN_SESSION = 12, CLOSE_SESSION = 13, CLOSE_ALL_SESSIONS = 14, LOGIN = 18, LOGOUT = 19, CREATE_OBJECT = 20, GET_ATTRIBUTE_VALUE = 24, DECRYPT = 34, GENERATE_KEY = 58, WRAP_KEY = 60,
    GENERATE_RANDOM = 64,
};
enum { OK = 0x00, SESSION_COUNT = 0xB1, WRITE_PROTECTED = 0xE2 };
enum { AES_GCM = 0x1087, AES_KEY_WRAP = 0x2109, AES_KEY_WRAP_PAD = 0x210A, AES_KEY_WRAP_KWP = 0x210B };
enum { CKA_TRUSTED = 0x86, CKA_WRAP_WITH_TRUSTED = 0x210, TEMPLATE_INCONSISTENT = 0xD1 };
enum { CKA_TOKEN = 0x01, CKA_VALUE = 0x11, FINAL_TRY = 0x20000, SO_FINAL_TRY = 0x200000, RW_SESSION = 2, MOST_SESSIONS = 6 };

static FUNCTION_LIST *real, ours;
static ULONG sessions;
static int trusts;

static int is(const char *way)
{
    return strstr(WAYS, way) != NULL;
}

static void crash(void)
{
    raise(SIGSEGV);
}

static void hang(void)
{
    for (;;)
        pause();
}

static int there_is(const char *file)
{
    return is("by-file") && access(file, F_OK) == 0;
}

/* As an HSM on a network that nothing comes back from, for as long as a file says so. */
static void hang_while_told(void)
{
    while (there_is(FOLDER "/hangs"))
        usleep(10000);
}

/* A text in a field that blanks fill. */
static void put(BYTE *field, size_t size, const char *text)
{
    size_t length = strlen(text);
    memset(field, ' ', size);
    memcpy(field, text, length < size ? length : size);
}

static ULONG initialize(void *arguments)
{
    if (is("crash-at-start"))
        crash();
    if (is("prints"))
        puts("a module may print what it likes"), fflush(stdout);
    return real->at[INITIALIZE](arguments);
}

static ULONG get_info(BYTE *info)
{
    ULONG answer = real->at[GET_INFO](info);
    /* CK_INFO: version (2), manufacturer (32), flags at 40, description (32). */
    if (is("hostile-names"))
        put(info + 2, 32, "<script>alert(1)</script>"), put(info + 48, 32, "\x1b[2J\"'><img src=x onerror=y>");
    return answer;
}

static ULONG get_token_info(ULONG slot, BYTE *info)
{
    ULONG answer = real->at[GET_TOKEN_INFO](slot, info);
    ULONG *numbers = (ULONG *)(info + 96);
    /* CK_TOKEN_INFO: label (32), manufacturer (32), model (16), serial number (16), flags, most sessions, sessions. */
    if (is("hostile-names"))
        put(info + 64, 16, "<b>\xe2\x80\xae</b>");
    if (is("final-try"))
        numbers[0] |= FINAL_TRY;
    if (is("officer-locks-next"))
        numbers[0] |= SO_FINAL_TRY;
    if (is("few-sessions"))
        numbers[1] = MOST_SESSIONS, numbers[2] = sessions;
    return answer;
}

static ULONG open_session(ULONG slot, ULONG flags, void *application, void *notify, ULONG *session)
{
    ULONG answer;
    hang_while_told();
    if (is("only-reads") && flags & RW_SESSION)
        return WRITE_PROTECTED;
    if (there_is(FOLDER "/full"))
        return SESSION_COUNT;
    if (is("few-sessions") && sessions >= MOST_SESSIONS)
        return SESSION_COUNT;
    if (is("keeps-keys"))
        flags |= RW_SESSION;
    answer = real->at[OPEN_SESSION](slot, flags, application, notify, session);
    sessions += answer == OK;
    return answer;
}

static ULONG close_session(ULONG session)
{
    ULONG answer = real->at[CLOSE_SESSION](session);
    sessions -= answer == OK;
    return answer;
}

static ULONG close_all_sessions(ULONG slot)
{
    sessions = 0;
    return real->at[CLOSE_ALL_SESSIONS](slot);
}

static ULONG finalize(void *reserved)
{
    sessions = 0;
    return real->at[FINALIZE](reserved);
}

static int is_key_wrap(ULONG mechanism)
{
    return mechanism == AES_KEY_WRAP || mechanism == AES_KEY_WRAP_PAD || mechanism == AES_KEY_WRAP_KWP;
}

static ULONG get_mechanism_list(ULONG slot, ULONG *list, ULONG *count)
{
    ULONG answer = real->at[GET_MECHANISM_LIST](slot, list, count), kept = 0;
    if (answer != OK || !list)
        return answer;
    for (ULONG at = 0; at < *count; at++)
        if (!(is("no-gcm") && list[at] == AES_GCM) && !(is("no-key-wrap") && is_key_wrap(list[at])))
            list[kept++] = list[at];
    *count = kept;
    return OK;
}

static ULONG login(ULONG session, ULONG user, void *pin, ULONG length)
{
    ULONG answer;
    FILE *tries = getenv("CROOKED_LOGINS") ? fopen(getenv("CROOKED_LOGINS"), "a") : NULL;
    if (tries)
        fputc('.', tries), fclose(tries);
    if (is("login-crashes"))
        crash();
    answer = real->at[LOGIN](session, user, pin, length);
    if (answer != OK && is("wrong-pin-crashes"))
        crash();
    return answer != OK && is("wrong-pin-is-odd") ? 0x80000042UL : answer;
}

static ULONG logout(ULONG session)
{
    return is("no-logout") ? (ULONG)OK : real->at[LOGOUT](session);
}

static int has(ATTRIBUTE *template, ULONG count, ULONG type)
{
    for (ULONG at = 0; at < count; at++)
        if (template[at].type == type && *(BYTE *)template[at].value)
            return 1;
    return 0;
}

static int is_for_token(ATTRIBUTE *template, ULONG count)
{
    return has(template, count, CKA_TOKEN);
}

/* Makes the key without it, and says later that it has it. */
static void forget_trust(ATTRIBUTE *template, ULONG count)
{
    for (ULONG at = 0; at < count; at++)
        if (template[at].type == CKA_WRAP_WITH_TRUSTED)
            *(BYTE *)template[at].value = 0;
}

static void keep(ATTRIBUTE *template, ULONG count)
{
    for (ULONG at = 0; at < count; at++)
        if (template[at].type == CKA_TOKEN)
            *(BYTE *)template[at].value = 1;
}

static ULONG create_object(ULONG session, ATTRIBUTE *template, ULONG count, ULONG *object)
{
    if (is("only-reads") && is_for_token(template, count))
        return WRITE_PROTECTED;
    if (is("trusts-nobody") && has(template, count, CKA_TRUSTED))
        return TEMPLATE_INCONSISTENT;
    trusts |= has(template, count, CKA_TRUSTED);
    return real->at[CREATE_OBJECT](session, template, count, object);
}

static ULONG generate_key(ULONG session, void *mechanism, ATTRIBUTE *template, ULONG count, ULONG *key)
{
    if (is("only-reads") && is_for_token(template, count))
        return WRITE_PROTECTED;
    if (is("keeps-keys"))
        keep(template, count);
    if (is("ignores-trust"))
        forget_trust(template, count);
    return real->at[GENERATE_KEY](session, mechanism, template, count, key);
}

static ULONG get_attribute_value(ULONG session, ULONG object, ATTRIBUTE *asked, ULONG count)
{
    if (is("shows-keys") && count == 1 && asked->type == CKA_VALUE) {
        if (asked->value)
            memset(asked->value, 'k', 32);
        asked->length = 32;
        return OK;
    }
    if (is("ignores-trust") && count == 1 && asked->type == CKA_WRAP_WITH_TRUSTED) {
        if (asked->value)
            *(BYTE *)asked->value = 1;
        asked->length = 1;
        return OK;
    }
    return real->at[GET_ATTRIBUTE_VALUE](session, object, asked, count);
}

static ULONG decrypt(ULONG session, BYTE *data, ULONG length, BYTE *out, ULONG *out_length)
{
    ULONG answer;
    hang_while_told();
    if (is("crash-at-decrypt"))
        crash();
    if (is("scribbles"))
        for (int descriptor = 3; descriptor < 32; descriptor++)
            if (write(descriptor, "{\"finding\": 7}\n", 15) < 0)
                continue;
    answer = real->at[DECRYPT](session, data, length, out, out_length);
    if (answer != OK && is("no-tag")) {
        if (out)
            memset(out, 'd', 32);
        *out_length = 32;
        return OK;
    }
    return answer;
}

static ULONG wrap_key(ULONG session, void *mechanism, ULONG kek, ULONG key, BYTE *out, ULONG *length)
{
    if (is("hang-at-wrap"))
        hang();
    if (is("hang-once-trusted") && trusts) {
        fclose(fopen(FOLDER "/trusts", "w"));
        hang();
    }
    return real->at[WRAP_KEY](session, mechanism, kek, key, out, length);
}

static ULONG generate_random(ULONG session, BYTE *out, ULONG length)
{
    ULONG answer;
    hang_while_told();
    answer = real->at[GENERATE_RANDOM](session, out, length);
    if (is("constant-random"))
        memset(out, 0x5a, length);
    return answer;
}

ULONG C_GetFunctionList(FUNCTION_LIST **list)
{
    if (!real) {
        void *library = dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
        FUNCTION get = library ? (FUNCTION)dlsym(library, "C_GetFunctionList") : NULL;
        if (!get || get(&real) != OK)
            return 5;
        ours = *real;
        ours.at[INITIALIZE] = (FUNCTION)initialize, ours.at[GET_INFO] = (FUNCTION)get_info;
        ours.at[GET_FUNCTION_LIST] = (FUNCTION)C_GetFunctionList, ours.at[GET_TOKEN_INFO] = (FUNCTION)get_token_info;
        ours.at[OPEN_SESSION] = (FUNCTION)open_session, ours.at[CLOSE_SESSION] = (FUNCTION)close_session;
        ours.at[CLOSE_ALL_SESSIONS] = (FUNCTION)close_all_sessions, ours.at[FINALIZE] = (FUNCTION)finalize;
        ours.at[GET_MECHANISM_LIST] = (FUNCTION)get_mechanism_list;
        ours.at[LOGIN] = (FUNCTION)login, ours.at[LOGOUT] = (FUNCTION)logout;
        ours.at[CREATE_OBJECT] = (FUNCTION)create_object, ours.at[GENERATE_KEY] = (FUNCTION)generate_key;
        ours.at[GET_ATTRIBUTE_VALUE] = (FUNCTION)get_attribute_value, ours.at[DECRYPT] = (FUNCTION)decrypt;
        ours.at[WRAP_KEY] = (FUNCTION)wrap_key, ours.at[GENERATE_RANDOM] = (FUNCTION)generate_random;
        if (is("leaves-out"))
            ours.at[WRAP_KEY] = NULL;
    }
    *list = &ours;
    return OK;
}
