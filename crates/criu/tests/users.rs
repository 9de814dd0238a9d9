//! Servers that give up root move, also where nobody has CAP_SYS_RESOURCE.

mod world;

use godwit_criu::Runc;
use world::{World, limit};

#[test]
fn a_service_of_another_user_moves_with_its_limits() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 1, &["user"]);
    let client = world.client();
    world.move_between(&world.a, &world.b, "b", "app", "there");
    client.wait_for(20);
    world.move_between(&world.b, &world.a, "a", "app", "back");
    client.wait_for(20);
    client.stop().unwrap();
    let runc = Runc::new(&world.a.env);
    let told = |file: &str, line: &str| {
        let text = runc.exec("app", &["grep", line, file], &limit()).unwrap().stdout;
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(told("/proc/1/limits", "Max open files"), "Max open files 77 99 files");
    assert_eq!(told("/proc/1/status", "^Uid"), "Uid: 65534 65534 65534 65534");
    runc.delete("app", true, &limit()).unwrap();
}
